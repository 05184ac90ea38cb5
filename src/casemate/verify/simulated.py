"""Verify simulated evidence under development roots that somebody named."""

from __future__ import annotations

from collections.abc import Collection

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from casemate.errors import NotGenuineError, UsageError
from casemate.evidence import Tee
from casemate.evidence.simulated import SIGNATURE_CONTEXT, parse_simulated_evidence
from casemate.types import Sha256, sha256
from casemate.verify.report import VerifiedReport


def load_development_root(spki: bytes) -> Ed25519PublicKey:
    """The public key of a development root.

    Args:
        spki: SubjectPublicKeyInfo, DER, Ed25519.

    Raises:
        UsageError: ``verify.development-root`` where it is another kind of key.
    """
    try:
        key = load_der_public_key(spki)
    except ValueError as error:
        raise UsageError(
            "verify.development-root", "a development root can't be read", field="root"
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(
            "verify.development-root",
            "a development root is not an Ed25519 key",
            field="root",
            expected="Ed25519",
            got=type(key).__name__,
        )
    return key


def verify_simulated(data: bytes, *, roots: Collection[bytes]) -> VerifiedReport:
    """Verify simulated evidence.

    Args:
        data: the evidence (specs/simulated-evidence.md).
        roots: SubjectPublicKeyInfo (DER) of the development roots that are trusted. There is no
            built-in one: without a root, nothing simulated is genuine.

    Returns:
        The report, with the claims ``measurement``, ``root``, ``platform_id``, ``svn``, ``debug``.

    Raises:
        MalformedError: it can't be parsed.
        NotGenuineError: ``simulated.unknown-root``, ``simulated.signature``.
    """
    evidence = parse_simulated_evidence(data)
    report = evidence.report

    # 1. The root must be one that the caller named; a key id in the evidence only selects.
    by_id = {sha256(spki): spki for spki in roots}
    spki = by_id.get(Sha256(report.root))
    if spki is None:
        raise NotGenuineError(
            "simulated.unknown-root",
            "the evidence is simulated, by a development root that nobody here trusts",
            field="root",
            expected=" or ".join(sorted(key.hex() for key in by_id)) or "no simulated evidence",
            got=report.root.hex(),
            remedy="Name that root's public key in the policy, if this is a development machine.",
        )

    # 2. The signature covers the report's very bytes, under a context of its own.
    try:
        load_development_root(spki).verify(evidence.signature, SIGNATURE_CONTEXT + evidence.signed)
    except InvalidSignature as error:
        raise NotGenuineError(
            "simulated.signature",
            "the signature of the simulated evidence doesn't hold",
            field="signature",
            remedy="Nothing can repair it: the evidence was changed, or is a forgery.",
        ) from error

    return VerifiedReport(
        tee=Tee.SIMULATED,
        report_data=report.report_data,
        claims={
            "measurement": bytes(report.measurement),
            "root": bytes(report.root),
            "platform_id": bytes(report.platform_id),
            "svn": report.svn,
            "debug": report.debug,
        },
    )
