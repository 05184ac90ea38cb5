"""Verify attestation results of a verifier that is trusted by its key.

 1. The token parses (`casemate.evidence.ear`).
 2. One of the keys that were given signed it.
 3. It counts at the given time, and doesn't count for long.

Source: specs/attestation-result.md, "What a reader checks".
"""

from __future__ import annotations

import datetime
from collections.abc import Collection

from casemate.encoding import JsonValue, decode_hex
from casemate.errors import NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.ear import PARTS, AttestationResult, SignedResult, parse_ear
from casemate.types import Sha256, sha256
from casemate.verify.checks import CheckList
from casemate.verify.jws import verify_jws
from casemate.verify.report import ClaimValue, VerifiedReport

MAX_LIFETIME = datetime.timedelta(days=1)
_CLOCK_SKEW = datetime.timedelta(minutes=5)


def verify_ear(
    data: bytes,
    *,
    keys: Collection[bytes],
    at: datetime.datetime,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a result.

    Args:
        data: the token.
        keys: SubjectPublicKeyInfo (DER) of the verifiers that are trusted.
        at: the time.
        checks: collects the checks.

    Returns:
        The report. It binds what the appraised evidence bound; its claims are the verifier's words,
        and ``attester.NAME`` those of the evidence.

    Raises:
        MalformedError: it can't be read.
        UnavailableError: ``ear.no-key``.
        NotGenuineError: ``ear.*``.

    Does not check: the status, and what it was said of. That is the policy's matter.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("ear.token", "the token has the form of an attestation result"):  # 1
        signed = parse_ear(data)
    with checks.check("ear.signature", "a verifier that is trusted signed it"):  # 2
        verifier = _signer(signed, keys)
    with checks.check("ear.time", "the result counts at that time, and not for long"):  # 3
        _check_time(signed.result, at)
    return VerifiedReport(
        tee=Tee.EAR,
        report_data=signed.result.report_data,
        claims={**_claims(signed.result, at), "verifier": bytes(verifier)},
        checks=checks.done(),
    )


def _signer(signed: SignedResult, keys: Collection[bytes]) -> Sha256:
    if not keys:
        raise UnavailableError(
            "ear.no-key",
            "whether the result is genuine can't be told without its verifier's key",
            field="key",
            expected="the public key of a verifier that is trusted",
            got="none",
            remedy="Give it (--verifier-key), from whoever runs the verifier.",
        )
    refusals: list[NotGenuineError] = []
    for spki in keys:
        try:
            verify_jws(signed.jws, spki, what="ear")
        except NotGenuineError as error:
            refusals.append(error)
        else:
            return sha256(spki)
    raise refusals[0]


def _check_time(result: AttestationResult, at: datetime.datetime) -> None:
    if result.expires - result.issued_at > MAX_LIFETIME or result.expires <= result.issued_at:
        raise _refusal(
            "lifetime", "exp", f"at most {MAX_LIFETIME} after iat",
            str(result.expires - result.issued_at),
        )  # fmt: skip
    if at >= result.expires:
        raise _refusal("expired", "exp", f"later than {at.isoformat()}", result.expires.isoformat())
    if result.issued_at > at + _CLOCK_SKEW:
        raise _refusal("future", "iat", f"at most {at.isoformat()}", result.issued_at.isoformat())


def _claims(result: AttestationResult, at: datetime.datetime) -> dict[str, ClaimValue]:
    claims: dict[str, ClaimValue] = {
        "status": result.status.value,
        "attester": result.attester,
        "policy_id": result.policy_id,
        "age": max(0, int((at - result.issued_at).total_seconds())),
        "issued_at": result.issued_at.isoformat(),
        "expires": result.expires.isoformat(),
        "verifier_build": result.build,
    }
    for part in PARTS:
        claims[part.replace("-", "_")] = _tier(result.vector.get(part))
    if result.nonce is not None:
        claims["nonce"] = result.nonce
    key = result.attester_claims.get("public_key")
    if isinstance(key, str):
        claims["key"] = decode_hex(key, field="public_key", length=Sha256.length)
    for name, value in result.attester_claims.items():
        if (claim := _claim(value)) is not None:
            claims[f"attester.{name}"] = claim
    return claims


def _tier(value: int | None) -> str:
    """The tier of a part's value. Source: AR4SI, section 2.3.2."""
    match value:
        case int() if 2 <= value <= 31 or -32 <= value <= -2:
            return "affirming"
        case int() if 32 <= value <= 95 or -96 <= value <= -33:
            return "warning"
        case int() if 96 <= value <= 127 or -128 <= value <= -97:
            return "contraindicated"
        case _:
            return "none"


def _claim(value: JsonValue) -> ClaimValue | None:
    match value:
        case bool() | int() | str():
            return value
        case list():
            return tuple(str(each) for each in value)
        case dict():
            return {name: each for name, each in value.items() if isinstance(each, int)}
        case _:
            return None


def _refusal(code: str, field: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        f"ear.{code}",
        "the attestation result doesn't count at that time",
        field=field,
        expected=expected,
        got=got,
        remedy="Ask the verifier for a new one, or check the clock.",
    )
