"""Verify a peer without a TEE by the key that it was pinned by."""

from __future__ import annotations

from collections.abc import Collection

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casemate.encoding import decode_ed25519_spki
from casemate.errors import NotGenuineError
from casemate.evidence import Tee
from casemate.evidence.identity_key import SIGNATURE_CONTEXT, parse_identity_key_evidence
from casemate.types import sha256
from casemate.verify.report import VerifiedReport


def verify_identity_key(data: bytes, *, keys: Collection[bytes]) -> VerifiedReport:
    """Verify identity-key evidence.

    Args:
        data: the evidence (specs/simulated-evidence.md, "Identity-key evidence").
        keys: SubjectPublicKeyInfo (DER) of the keys that are trusted by name.

    Returns:
        The report, with the one claim ``key``: SHA-256 of the SubjectPublicKeyInfo.

    Raises:
        MalformedError: it can't be parsed.
        NotGenuineError: ``identity-key.unknown``, ``identity-key.signature``.
    """
    report = parse_identity_key_evidence(data)

    # 1. Only a key that the caller pinned speaks.
    if report.public_key not in keys:
        raise NotGenuineError(
            "identity-key.unknown",
            "the peer's identity key is not the pinned one",
            field="public-key",
            expected=" or ".join(sorted(sha256(key).hex() for key in keys)) or "no identity key",
            got=sha256(report.public_key).hex(),
            remedy="Check that the address leads to the right peer and that the pin is current.",
        )
    key = Ed25519PublicKey.from_public_bytes(
        decode_ed25519_spki(report.public_key, field="public-key")
    )

    # 2. It signs the report data under a context of its own, so that no other signature of it fits.
    try:
        key.verify(report.signature, SIGNATURE_CONTEXT + report.report_data)
    except InvalidSignature as error:
        raise NotGenuineError(
            "identity-key.signature",
            "the signature of the identity key doesn't hold",
            field="signature",
            remedy="Nothing can repair it: the evidence was changed, or is a forgery.",
        ) from error

    return VerifiedReport(
        tee=Tee.IDENTITY_KEY,
        report_data=report.report_data,
        claims={"key": bytes(sha256(report.public_key))},
    )
