"""Verify AWS Nitro attestation documents.

 1. The document parses (`casemate.evidence.nitro`).
 2. Its certificate's chain, by way of its bundle, ends in AWS's pinned root.
 3. The certificate's key signed the document.

Source: see `casemate.evidence.nitro`, section 4, "Attestation document validation".
"""

from __future__ import annotations

import datetime
from collections.abc import Collection

from casemate.endorsements.certificates import load_certificate
from casemate.errors import NotGenuineError
from casemate.evidence import Tee
from casemate.evidence.nitro import NitroDocument, parse_nitro_document
from casemate.types import ReportData, Sha256
from casemate.verify.chain import verify_chain
from casemate.verify.checks import CheckList
from casemate.verify.cose import verify_sign1
from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.roots import AWS_NITRO_ROOT

_CLOCK_SKEW = datetime.timedelta(minutes=5)


def verify_nitro(
    data: bytes,
    *,
    at: datetime.datetime,
    roots: Collection[Sha256] = (AWS_NITRO_ROOT,),
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a document.

    Args:
        data: COSE_Sign1.
        at: the time; the document's certificate lives three hours.
        roots: fingerprints of the roots that are trusted; AWS's own if not given.
        checks: collects the checks.

    Returns:
        The report. The 64 bytes that a document binds are its ``user_data``, if that is 64 bytes
        long, and zeros otherwise: such a document binds nothing by our rule.

    Raises:
        MalformedError: it can't be read.
        NotGenuineError: ``nitro.*``.

    Does not check: the registers, what ``nonce``, ``user_data`` and ``public_key`` hold, the age of
        the document within its certificate's life.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("nitro.document", "the document has the form that AWS gives it"):  # 1
        document = parse_nitro_document(data)
    with checks.check("nitro.chain", "the document's certificate leads to AWS's root"):  # 2
        leaf = load_certificate(document.certificate, what="Nitro certificate")
        issuers = [load_certificate(der, what="Nitro bundle") for der in document.cabundle]
        verify_chain([leaf, *reversed(issuers)], roots=roots, at=at, what="nitro")
        if document.timestamp > at + _CLOCK_SKEW:
            raise NotGenuineError(
                "nitro.future",
                "the document was made after the time of verification",
                field="timestamp",
                expected=f"at most {at.isoformat()}",
                got=document.timestamp.isoformat(),
                remedy="Check the clock.",
            )
    with checks.check("nitro.signature", "the certificate's key signed the document"):  # 3
        verify_sign1(document.sign1, leaf.public_key(), code="nitro.signature")
    return VerifiedReport(
        tee=Tee.NITRO,
        report_data=_report_data(document),
        claims=_claims(document, at),
        checks=checks.done(),
    )


def _report_data(document: NitroDocument) -> ReportData:
    user_data = document.user_data or b""
    return ReportData(user_data if len(user_data) == ReportData.length else bytes(64))


def _claims(document: NitroDocument, at: datetime.datetime) -> dict[str, ClaimValue]:
    claims: dict[str, ClaimValue] = {
        "module_id": document.module_id,
        "timestamp": document.timestamp.isoformat(),
        "age_seconds": max(0, int((at - document.timestamp).total_seconds())),
        "debug": document.debug,
    }
    claims |= {f"pcr{number}": value for number, value in sorted(document.pcrs.items())}
    for name in ("public_key", "user_data", "nonce"):
        if (value := getattr(document, name)) is not None:
            claims[name] = value
    return claims
