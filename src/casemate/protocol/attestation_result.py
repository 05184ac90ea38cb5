"""Say what came of an appraisal, signed, so that others may rely on it.

Source: specs/attestation-result.md, "Status and vector".
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from casemate import __version__
from casemate.encoding import JsonValue
from casemate.encoding.jose import compact, signing_input
from casemate.errors import CasemateError, NotAcceptableError, NotGenuineError, UsageError
from casemate.evidence import Tee
from casemate.evidence.ear import (
    PARTS,
    AttestationResult,
    Status,
    policy_id,
    result_claims,
)
from casemate.policy import FIELDS, AppraisedReport, PolicyDocument, Unchecked
from casemate.types import ReportData, Secret, Sha256, sha256
from casemate.verify import VerifiedReport
from casemate.verify.report import claim_as_json

LIFETIME = datetime.timedelta(minutes=5)
_DEVELOPER = "Casemate"
_WITHOUT_HARDWARE = (Tee.SIMULATED, Tee.IDENTITY_KEY)
_AFFIRMED, _UNSAFE, _CONTRAINDICATED, _UNRECOGNISED, _NOT_GENUINE = 2, 32, 96, 97, 99
_PARTS_OF: tuple[tuple[str | None, re.Pattern[str]], ...] = tuple(
    (part, re.compile(names))
    for part, names in (
        (None, r"age|age_seconds|user_data|public_key|nonce"),
        (
            "executables",
            r"measurement|measurements_compared|mr_(enclave|signer|td|service_td)|rtmr\d|"
            r"pcr(\d+|_bank|_selection|_digest)|rim|rem\d|realm_hash_algorithm|(isv_|guest_)?svn|"
            r"isv_prod_id|id_key_digest|author_key_digest|driver_version|executables",
        ),
        (
            "hardware",
            r"tee|tcb_.*|.*_tcb|cpu_svn|tee_tcb_svn|advisories|collateral_age_days|smt_enabled|"
            r"dynamic_platform|cached_keys|fmspc|mr_seam|mr_signer_seam|seam_attributes|product|"
            r"signer|csp_id|version|(committed_)?firmware|.*_mit_vector|platform_info|revocation|"
            r"revocation_age_days|firmware_version|vbios_version|fwid|architecture|safe|lifecycle|"
            r"profile|implementation_id|ek_root|components|component_signers|hardware|compliance_status|"
            r"attester|attestation_type",
        ),
        (
            "instance-identity",
            r"chip_id|ppid|platform_id|platform_instance_id|module_id|ak|ek|cpak|instance_id|device|"
            r"key|root|vm_id|issuer|signing_key|verifier|instance_identity",
        ),
        ("configuration", r".*"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultKey:
    """A verifier's signing key.

    Args:
        key: Ed25519, or EC on P-256.
    """

    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, pem: Secret) -> ResultKey:
        """Read a private key, PKCS #8 in PEM.

        Raises:
            UsageError: ``ear.signing-key``.
        """
        try:
            key = load_pem_private_key(pem.reveal(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise _unusable("something else") from error
        if isinstance(key, Ed25519PrivateKey) or (
            isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
        ):
            return cls(key=key)
        raise _unusable(type(key).__name__)

    @property
    def spki(self) -> bytes:
        """The public key, SubjectPublicKeyInfo in DER."""
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, claims: Mapping[str, JsonValue]) -> bytes:
        """A token with these claims."""
        algorithm = "EdDSA" if isinstance(self.key, Ed25519PrivateKey) else "ES256"
        header: dict[str, JsonValue] = {"alg": algorithm, "typ": "JWT"}
        header["kid"] = bytes(sha256(self.spki)).hex()
        signed = signing_input(header, claims)
        if isinstance(self.key, Ed25519PrivateKey):
            return compact(signed, self.key.sign(signed))
        # Deterministic (RFC 6979): no randomness here, and none that could be weak.
        algorithm_of = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(self.key.sign(signed, algorithm_of))
        return compact(signed, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An appraisal that came to no.

    Args:
        attester: the kind of evidence.
        error: why: not genuine, or not acceptable.
        report: of genuine evidence.
    """

    attester: Tee
    error: NotGenuineError | NotAcceptableError
    report: VerifiedReport | None


Appraisal: TypeAlias = AppraisedReport | Refusal


def make_result(
    appraisal: Appraisal,
    document: PolicyDocument,
    *,
    policy_digest: Sha256,
    at: datetime.datetime,
    lifetime: datetime.timedelta = LIFETIME,
    nonce: bytes | None = None,
    public_key: Sha256 | None = None,
) -> AttestationResult:
    """Put what came of an appraisal into a result.

    Args:
        appraisal: an appraised report, or a refusal.
        document: the policies that the evidence was held against.
        policy_digest: SHA-256 of that document's bytes.
        at: the time.
        lifetime: how long the result counts.
        nonce: what the reader asked with, 8 to 64 bytes.
        public_key: SHA-256 of the attested key's SubjectPublicKeyInfo, where the verifier saw it.
    """
    report = appraisal.report
    if isinstance(appraisal, AppraisedReport):
        status, vector = _accepted(appraisal, document)
        said: dict[str, JsonValue] = {
            "policy": appraisal.policy,
            "alternative": appraisal.alternative,
        }
        attester, launch = appraisal.report.tee, appraisal.launch
    else:
        status, vector = Status.CONTRAINDICATED, _refused(appraisal.error)
        said = {"error": appraisal.error.code, "mismatches": list(_mismatched(appraisal.error))}
        attester, launch = appraisal.attester, None
    claims: dict[str, JsonValue] = (
        {name: claim_as_json(value) for name, value in report.claims.items()} if report else {}
    )
    for number, gpu in enumerate(report.gpus if report else ()):
        for name, value in gpu.claims.items():
            claims[f"gpus[{number}].{name}"] = claim_as_json(value)
    if launch is not None:
        claims["launch"] = bytes(launch).hex()
    if public_key is not None:
        claims["public_key"] = bytes(public_key).hex()
    return AttestationResult(
        attester=attester.value,
        status=status,
        vector={part: vector.get(part, 0) for part in PARTS},
        policy_id=policy_id(policy_digest),
        report_data=report.report_data if report else ReportData(bytes(ReportData.length)),
        attester_claims=claims,
        verifier_claims=said,
        nonce=nonce,
        issued_at=at,
        expires=at + lifetime,
        developer=_DEVELOPER,
        build=f"casemate {__version__}",
    )


def sign_result(result: AttestationResult, key: ResultKey) -> bytes:
    """The result as a token."""
    return key.sign(result_claims(result))


def part_of(field: str) -> str | None:
    """Which part of the trustworthiness vector a policy's field belongs to.

    None for what belongs to the occasion: who talks to whom is checked apart.
    """
    return next(part for part, names in _PARTS_OF if names.fullmatch(field))


def _accepted(
    appraised: AppraisedReport, document: PolicyDocument
) -> tuple[Status, dict[str, int]]:
    alternative = document.policies[appraised.policy].alternatives[appraised.alternative]
    tee = appraised.report.tee
    named = {part_of(field.name) for field in FIELDS[tee]}
    unchecked = {
        part_of(field.name)
        for field, constraint in (*alternative.fields(), *alternative.gpu_fields())
        if isinstance(constraint, Unchecked)
    }
    vector = {part: _AFFIRMED for part in PARTS if part in named - unchecked}
    if tee in _WITHOUT_HARDWARE:
        return Status.WARNING, {**vector, "hardware": _UNSAFE}
    return Status.AFFIRMING, vector


def _refused(error: CasemateError) -> dict[str, int]:
    if not isinstance(error, NotAcceptableError):
        return dict.fromkeys(PARTS, _NOT_GENUINE)
    fields = _mismatched(error)
    if set(fields) <= {"tee"}:
        return {"hardware": _UNRECOGNISED}
    parts = {part_of(field) for field in fields if field != "tee"}
    return {
        part: _UNRECOGNISED if part == "instance-identity" else _CONTRAINDICATED
        for part in PARTS
        if part in parts
    }


def _mismatched(error: CasemateError) -> tuple[str, ...]:
    found = error.mismatches if isinstance(error, NotAcceptableError) else ()
    return tuple(dict.fromkeys(mismatch.field for mismatch in found))


def _unusable(got: str) -> UsageError:
    return UsageError(
        "ear.signing-key",
        "the key can't sign attestation results",
        field="--ear-key",
        expected="a private key, Ed25519 or EC on P-256, PKCS #8 in PEM",
        got=got,
        remedy="Make one with: casemate key new --for identity verifier.key",
    )
