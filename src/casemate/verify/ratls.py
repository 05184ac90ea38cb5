"""Verify attested certificates: those of our launchers, and other implementations'.

 1. The certificate parses, and carries evidence (`casemate.evidence.ratls`).
 2. The claim ``pubkey-hash`` is the digest of the certificate's SubjectPublicKeyInfo.
 3. The evidence is genuine (`casemate.verify.verifier`), by the verifier's own collateral: what the
    certificate carries along could be older than a revocation.
 4. The evidence's report data is the SHA-256 of the claims buffer; in the private forms of Gramine
    and Occlum, it is the SHA-256 of the SubjectPublicKeyInfo itself.

A certificate alone proves nothing about a connection: whoever checks it must be talking to the
holder of its key, and can't tell when the evidence was made.

Source: specs/attested-certificate.md, "Verifying".
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from dataclasses import replace

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from casemate.errors import NotGenuineError
from casemate.evidence.ratls import AttestedCertificate, parse_attested_certificate
from casemate.types import ReportData, sha256
from casemate.verify.checks import CheckList
from casemate.verify.report import VerifiedReport
from casemate.verify.verifier import Known, TrustAnchors, verify_evidence


def verify_attested_certificate(
    data: bytes, *, anchors: TrustAnchors, known: Known, checks: CheckList | None = None
) -> VerifiedReport:
    """Verify a certificate.

    Args:
        data: PEM or DER.
        anchors: whom its evidence may end at.
        known: what its evidence is held against.
        checks: collects the checks, also of a verification that fails.

    Returns:
        The report of the evidence, with the claims ``public_key``, SHA-256 of the certificate's
        key, ``certificate_form``, and ``launch`` where it binds a launch contract's digest.

    Raises:
        MalformedError, UnavailableError, NotGenuineError: ``ratls.*``, and those of the evidence.

    Does not check: the certificate's own signature, names and validity (`check_own_word`), which
    mean nothing for the key; nor that anybody holds it.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("ratls.certificate", "the certificate carries evidence"):  # 1
        certificate = parse_attested_certificate(data)
    with checks.check("ratls.key", "the evidence's claims are about this certificate's key"):  # 2
        _check_key(certificate)
    report = verify_evidence(certificate.evidence, anchors=anchors, known=known, checks=checks)  # 3
    check_binding(certificate, report.report_data, checks)  # 4
    launch = certificate.launch
    return replace(
        report,
        claims={
            **report.claims,
            "public_key": bytes(sha256(certificate.spki)),
            "certificate_form": certificate.form,
            **({} if launch is None else {"launch": bytes(launch)}),
        },
        checks=checks.done(),
    )


def check_binding(
    certificate: AttestedCertificate, report_data: ReportData, checks: CheckList
) -> None:
    """Rule 4.

    Raises:
        NotGenuineError: ``ratls.report-data``.
    """
    with checks.check("ratls.binding", "the evidence binds these claims, or this key"):
        bound = certificate.claims_buffer or certificate.spki
        expected = hashlib.sha256(bound).digest().ljust(ReportData.length, b"\0")
        if not hmac.compare_digest(expected, report_data):
            raise _refusal("report-data", "report_data", expected, report_data)


def check_own_word(
    der: bytes,
    *,
    at: datetime.datetime,
    max_age: datetime.timedelta | None = None,
    checks: CheckList | None = None,
) -> None:
    """Whether a certificate is signed by its own key, and valid, as whoever has that key says.

    Args:
        der: the certificate.
        at: the time.
        max_age: how long ago it may have begun; None for as long as it is valid.
        checks: collects the checks.

    Raises:
        NotGenuineError: ``ratls.signature``, ``ratls.expired``, ``ratls.age``.

    Does not check: whose key it is (`verify_attested_certificate`).
    """
    checks = CheckList() if checks is None else checks
    with checks.check("ratls.signature", "names and times are its own key's word"):
        try:
            certificate = x509.load_der_x509_certificate(der)
            certificate.verify_directly_issued_by(certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise NotGenuineError(
                "ratls.signature",
                "the certificate isn't signed by its own key",
                field="signature",
                expected="the signature of the key that the evidence is about",
                got="another, or one that can't be read",
                remedy="Don't connect: somebody changed the certificate's names or times.",
            ) from error
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    with checks.check("ratls.validity", "it is valid now, and not too old"):
        if not start <= at <= end:
            raise _untimely("expired", f"a time from {start.isoformat()} to {end.isoformat()}", at)
        if max_age is not None and at - start > max_age:
            oldest = f"one that begins after {(at - max_age).isoformat(timespec='seconds')}"
            raise _untimely("age", oldest, start)


def _check_key(certificate: AttestedCertificate) -> None:
    """Rule 2. The private forms have no claims; their quote binds the key by itself."""
    if not certificate.claims_buffer:
        return
    expected = hashlib.new(certificate.key_hash_algorithm, certificate.spki).digest()
    if not hmac.compare_digest(expected, certificate.key_hash):
        raise _refusal("key", "pubkey-hash", expected, certificate.key_hash)


def _refusal(code: str, field: str, expected: bytes, got: bytes) -> NotGenuineError:
    return NotGenuineError(
        f"ratls.{code}",
        "the evidence in the certificate isn't about the certificate's key",
        field=field,
        expected=expected.hex(),
        got=got.hex(),
        remedy="Nothing can repair it: key or evidence were exchanged.",
    )


def _untimely(code: str, expected: str, got: datetime.datetime) -> NotGenuineError:
    return NotGenuineError(
        f"ratls.{code}",
        "the certificate isn't valid now" if code == "expired" else "the certificate is too old",
        field="validity",
        expected=expected,
        got=got.isoformat(timespec="seconds"),
        remedy="Have the workload launched again: each launch mints a certificate of its own.",
    )
