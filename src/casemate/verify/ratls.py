"""Verify attested certificates of other implementations.

 1. The certificate parses, and carries a quote (`casemate.evidence.ratls`).
 2. The evidence binds the certificate's key: the claim ``pubkey-hash`` is the digest of its
    SubjectPublicKeyInfo, and the quote's report data is the SHA-256 of the claims buffer; in the
    private forms of Gramine and Occlum, it is the SHA-256 of the SubjectPublicKeyInfo itself.
 3. The quote is genuine (`casemate.verify.dcap`), by the verifier's own collateral: what the
    certificate carries along could be older than a revocation.

A certificate alone proves nothing about a connection: whoever checks it must be talking to the
holder of its key, and can't tell when the evidence was made.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac

from casemate.endorsements.dcap import DcapCollateral
from casemate.errors import NotGenuineError
from casemate.evidence.quote import parse_quote
from casemate.evidence.ratls import AttestedCertificate, parse_attested_certificate
from casemate.types import ReportData, sha256
from casemate.verify.checks import CheckList
from casemate.verify.dcap import verify_quote
from casemate.verify.report import VerifiedReport


def verify_attested_certificate(
    data: bytes,
    *,
    collateral: DcapCollateral | None,
    at: datetime.datetime,
    root: bytes | None = None,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a certificate.

    Args:
        data: PEM or DER.
        collateral, at, root, checks: see `casemate.verify.dcap.verify_quote`.

    Returns:
        The report of the quote, with the claim ``public_key``: SHA-256 of the certificate's key.

    Raises:
        MalformedError, UnavailableError, NotGenuineError: ``ratls.*``, ``dcap.*``.

    Does not check: the certificate's own signature, names and validity, which mean nothing here.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("ratls.certificate", "the certificate carries a quote"):  # 1
        certificate = parse_attested_certificate(data)
    check_binding(certificate, checks)  # 2
    report = verify_quote(
        certificate.quote, collateral=collateral, at=at, root=root, checks=checks
    )  # 3
    return VerifiedReport(
        tee=report.tee,
        report_data=report.report_data,
        claims={
            **report.claims,
            "public_key": bytes(sha256(certificate.spki)),
            "certificate_form": certificate.form,
        },
        checks=checks.done(),
    )


def check_binding(certificate: AttestedCertificate, checks: CheckList) -> None:
    """Rule 2.

    Raises:
        NotGenuineError: ``ratls.key``, ``ratls.report-data``.
    """
    with checks.check("ratls.binding", "the evidence is about this certificate's key"):
        bound = certificate.claims_buffer
        if certificate.form == "interoperable":
            expected = hashlib.new(certificate.key_hash_algorithm, certificate.spki).digest()
            if not hmac.compare_digest(expected, certificate.key_hash):
                raise _refusal("key", "pubkey-hash", expected, certificate.key_hash)
        else:
            bound = certificate.spki
        report_data = bytes(parse_quote(certificate.quote).report.report_data)
        expected = hashlib.sha256(bound).digest().ljust(ReportData.length, b"\0")
        if not hmac.compare_digest(expected, report_data):
            raise _refusal("report-data", "report_data", expected, report_data)


def _refusal(code: str, field: str, expected: bytes, got: bytes) -> NotGenuineError:
    return NotGenuineError(
        f"ratls.{code}",
        "the evidence in the certificate isn't about the certificate's key",
        field=field,
        expected=expected.hex(),
        got=got.hex(),
        remedy="Nothing can repair it: key or evidence were exchanged.",
    )
