"""Attestation results (EAR): what a verifier says of evidence that it appraised.

Source: specs/attestation-result.md; draft-ietf-rats-ear-04; draft-ietf-rats-ar4si, section 2.3.
Does not check: the signature, times, and whether the verifier is trusted (`casemate.verify.ear`).
"""

from __future__ import annotations

import base64
import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from casemate.encoding import JsonValue, MapReader, decode_base64, decode_hex
from casemate.encoding.jose import (
    Jws,
    decode_claims,
    encode_base64url,
    parse_jws,
)
from casemate.errors import MalformedError
from casemate.types import ReportData, Sha256

MAX_SIZE = 64 * 1024
PROFILE = "tag:ietf.org,2026:rats/ear#04"
FAMILY = "tag:ietf.org,2026:rats/ear#"
"""Of every edition of the profile; others than `PROFILE` are told apart, and refused."""
PARTS = ("instance-identity", "configuration", "executables", "hardware")
"""Of the trustworthiness vector, those that are spoken of here."""
_POLICY_ID = re.compile(r"ni:///sha-256;[A-Za-z0-9_-]{43}\Z", re.ASCII)
_SUBMODULE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z", re.ASCII)
_OLD = "ear."
_MAX_SECONDS = 253402300799


class Status(StrEnum):
    """What came of an appraisal (AR4SI, "trustworthiness tiers"), the worst last."""

    AFFIRMING = "affirming"
    NONE = "none"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationResult:
    """What a result says.

    Args:
        attester: the TEE whose evidence was appraised.
        status: what came of it.
        vector: by part; see the specification.
        policy_id: names the policy document (`policy_id`).
        report_data: what the evidence binds.
        attester_claims: what the evidence says, JSON-ready, without the report data.
        verifier_claims: what the verifier adds.
        nonce: what the reader asked with, if anything.
        issued_at: when it was issued.
        expires: when it ends.
        developer: who made the verifier's program.
        build: which program that is.
    """

    attester: str
    status: Status
    vector: Mapping[str, int]
    policy_id: str
    report_data: ReportData
    attester_claims: Mapping[str, JsonValue]
    verifier_claims: Mapping[str, JsonValue]
    nonce: bytes | None
    issued_at: datetime.datetime
    expires: datetime.datetime
    developer: str
    build: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedResult:
    """A result, and the signature over it: unverified."""

    result: AttestationResult
    jws: Jws


def policy_id(digest: Sha256) -> str:
    """The name of a policy document, from the SHA-256 of its bytes. Source: RFC 6920."""
    return f"ni:///sha-256;{encode_base64url(bytes(digest))}"


def result_claims(result: AttestationResult) -> dict[str, JsonValue]:
    """The claims of a token for this result."""
    appraisal: dict[str, JsonValue] = {"ear_status": result.status.value}
    if result.vector:
        appraisal["ear_trustworthiness_vector"] = dict(result.vector)
    appraisal["ear_appraisal_policy_ids"] = [result.policy_id]
    appraisal["ear_attester_claims"] = {
        **result.attester_claims,
        "report_data": bytes(result.report_data).hex(),
    }
    if result.verifier_claims:
        appraisal["ear_verifier_claims"] = dict(result.verifier_claims)
    claims: dict[str, JsonValue] = {
        "eat_profile": PROFILE,
        "ear_status": result.status.value,
        "iat": int(result.issued_at.timestamp()),
        "exp": int(result.expires.timestamp()),
        "ear_verifier_id": {"developer": result.developer, "build": result.build},
        "submods": {result.attester: appraisal},
    }
    if result.nonce is not None:
        claims["eat_nonce"] = base64.b64encode(result.nonce).decode("ascii")
    return claims


def parse_ear(data: bytes) -> SignedResult:
    """Parse a token.

    Args:
        data: a JWT in compact form, at most 64 KiB.

    Raises:
        MalformedError: ``ear.claim``, ``encoding.*``.
    """
    jws = parse_jws(data, what="attestation result", max_size=MAX_SIZE)
    claims = decode_claims(jws, what="attestation result")
    _require_one_spelling(claims)
    top = MapReader(claims, what="result")
    if (profile := top.take("eat_profile", str)) != PROFILE:
        raise _malformed("eat_profile", PROFILE, profile[:64])
    submods = top.take_map("submods")
    if len(names := submods.names()) != 1 or not _SUBMODULE.match(names[0]):
        raise _malformed("submods", "one member, named after a TEE", f"{len(names)} members")
    appraisal = submods.take_map(names[0])
    overall = top.take_optional("ear_status", str)
    program = top.take_map("ear_verifier_id")
    return SignedResult(
        jws=jws,
        result=_result(
            names[0],
            appraisal,
            overall=overall,
            nonce=_nonce(top.take_optional("eat_nonce", str)),
            times=(_time(top, "iat"), _time(top, "exp")),
            program=(program.take("developer", str)[:256], program.take("build", str)[:256]),
        ),
    )


def _result(
    attester: str,
    appraisal: MapReader,
    *,
    overall: str | None,
    nonce: bytes | None,
    times: tuple[datetime.datetime, datetime.datetime],
    program: tuple[str, str],
) -> AttestationResult:
    status = _status(appraisal.take("ear_status", str), overall)
    policies = appraisal.take_texts("ear_appraisal_policy_ids")
    if len(policies) != 1 or not _POLICY_ID.match(policies[0]):
        raise _malformed("ear_appraisal_policy_ids", "one ni:///sha-256;…", str(policies)[:80])
    attested = _members(appraisal, "ear_attester_claims")
    report_data = attested.pop("report_data", None)
    if not isinstance(report_data, str):
        raise _malformed("ear_attester_claims.report_data", "128 hex digits", "none")
    return AttestationResult(
        attester=attester,
        status=status,
        vector=_vector(appraisal),
        policy_id=policies[0],
        report_data=ReportData(
            decode_hex(report_data, field="report_data", length=ReportData.length)
        ),
        attester_claims=MappingProxyType(attested),
        verifier_claims=MappingProxyType(_members(appraisal, "ear_verifier_claims")),
        nonce=nonce,
        issued_at=times[0],
        expires=times[1],
        developer=program[0],
        build=program[1],
    )


def _status(own: str, overall: str | None) -> Status:
    """The worse of the appraisal's status and that of the whole, which may not be the better."""
    order = list(Status)
    for each in (own, overall):
        if each is not None and each not in set(Status):
            raise _malformed("ear_status", " or ".join(Status), each[:32])
    if overall is None:
        return Status(own)
    if order.index(Status(overall)) < order.index(Status(own)):
        raise _malformed("ear_status", f"{own} or worse, as its only appraisal", overall)
    return Status(overall)


def _require_one_spelling(value: JsonValue | Mapping[str, JsonValue]) -> None:
    """No object may use an earlier draft's names: a token with both would have two readings."""
    match value:
        case Mapping():
            for name, inner in value.items():
                if name.startswith(_OLD):
                    raise _malformed(name[:64], f"{name[:64].replace('.', '_')}", "an old spelling")
                _require_one_spelling(inner)
        case list():
            for inner in value:
                _require_one_spelling(inner)


def _members(part: MapReader, name: str) -> dict[str, JsonValue]:
    if name not in part.names():
        return {}
    value = part.take_any(name)
    if not isinstance(value, dict):
        raise _malformed(name, "an object", type(value).__name__)
    return value


def _vector(appraisal: MapReader) -> Mapping[str, int]:
    part = appraisal.take_optional_map("ear_trustworthiness_vector")
    vector: dict[str, int] = {}
    for name in part.names() if part is not None else ():
        assert part is not None
        vector[name] = part.take(name, int)
        if not -128 <= vector[name] <= 127:
            raise _malformed(f"vector.{name[:32]}", "-128 to 127", str(vector[name])[:32])
    return MappingProxyType(vector)


def _nonce(text: str | None) -> bytes | None:
    if text is None:
        return None
    nonce = decode_base64(text, field="result.eat_nonce")
    if not 8 <= len(nonce) <= 64:
        raise _malformed("eat_nonce", "8 to 64 bytes", f"{len(nonce)} bytes")
    return nonce


def _time(top: MapReader, name: str) -> datetime.datetime:
    seconds = top.take(name, int)
    if not 0 <= seconds <= _MAX_SECONDS:
        raise _malformed(name, "seconds since 1970", str(seconds)[:32])
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "ear.claim",
        f"the attestation result's {field} isn't what the specification says",
        field=field,
        expected=expected,
        got=got,
    )
