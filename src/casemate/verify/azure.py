"""Verify the evidence of Azure's confidential VMs.

 1. The evidence parses (`casemate.evidence.azure`).
 2. The virtual TPM's attestation key, as the paravisor names it, signed the quote of the registers.
 3. The paravisor's document is what the hardware's report binds: its SHA-256, then zeros.
 4. The hardware's report is genuine (`casemate.verify.snp`, `casemate.verify.dcap`).

So the hardware vouches for the paravisor's document, that for the attestation key, and that key
for the registers and for what the caller bound.

Source: see `casemate.evidence.azure`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from casemate.endorsements.certificates import load_certificates
from casemate.endorsements.dcap import DcapCollateral
from casemate.errors import MalformedError, NotGenuineError
from casemate.evidence import Tee
from casemate.evidence.azure import AzureEvidence, HclReport, parse_azure_evidence
from casemate.evidence.quote import parse_quote
from casemate.types import ReportData, Sha256, sha256
from casemate.verify.checks import CheckList
from casemate.verify.dcap import verify_quote
from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.roots import AMD_ROOTS
from casemate.verify.snp import verify_snp
from casemate.verify.tpm import bound_by, tpm_claims, verify_tpm_quote

_MIN_BITS, _MAX_BITS = 2048, 4096


def verify_azure_snp(
    data: bytes,
    *,
    certificates: Sequence[x509.Certificate],
    revocation_lists: Sequence[x509.CertificateRevocationList] = (),
    at: datetime.datetime,
    roots: Mapping[str, Sha256] = AMD_ROOTS,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify evidence of an Azure VM on SEV-SNP.

    Args:
        data: JSON (see `casemate.evidence.azure.parse_azure_evidence`).
        certificates, revocation_lists, at, roots, checks: see
            `casemate.verify.snp.verify_snp`; the VCEK may come in the evidence.

    Returns:
        The report; it binds the quote's qualifying data. Claims are SNP's, and the registers.

    Raises:
        MalformedError, UnavailableError, NotGenuineError: ``azure.*``, ``tpm.*``, ``snp.*``.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("azure.evidence", "the evidence has the form that Azure's guests give it"):
        evidence = parse_azure_evidence(data)
        if evidence.hcl.kind != "snp":
            raise _other_hardware("snp", evidence)
    key = verify_virtual_tpm(evidence, checks)
    own = load_certificates(evidence.vcek, what="VCEK") if evidence.vcek is not None else ()
    others = [each for each in certificates if each not in own]
    hardware = verify_snp(
        evidence.hcl.hardware_report,
        certificates=[*own, *others],
        revocation_lists=revocation_lists,
        at=at,
        roots=roots,
        checks=checks,
    )
    with checks.check("azure.binding", "the hardware vouches for the paravisor's document"):
        check_binding(evidence.hcl, hardware.report_data)
    return _report(Tee.AZURE_SNP, evidence, key, hardware, checks)


def verify_azure_tdx(
    data: bytes,
    *,
    collateral: DcapCollateral | None,
    at: datetime.datetime,
    root: bytes | None = None,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify evidence of an Azure VM on TDX.

    Args:
        data: JSON (see `casemate.evidence.azure.parse_azure_evidence`).
        collateral, at, root, checks: see `casemate.verify.dcap.verify_quote`.

    Returns:
        The report; it binds the quote's qualifying data. Claims are TDX's, and the registers.

    Raises:
        MalformedError, UnavailableError, NotGenuineError: ``azure.*``, ``tpm.*``, ``dcap.*``.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("azure.evidence", "the evidence has the form that Azure's guests give it"):
        evidence = parse_azure_evidence(data)
        quote = evidence.td_quote
        if quote is None:
            raise _other_hardware("tdx", evidence)
    key = verify_virtual_tpm(evidence, checks)
    with checks.check("azure.binding", "the hardware vouches for the paravisor's document"):
        check_binding(evidence.hcl, parse_quote(quote).report.report_data)
    hardware = verify_quote(quote, collateral=collateral, at=at, root=root, checks=checks)
    return _report(Tee.AZURE_TDX, evidence, key, hardware, checks)


def _report(
    tee: Tee,
    evidence: AzureEvidence,
    key: rsa.RSAPublicKey,
    hardware: VerifiedReport,
    checks: CheckList,
) -> VerifiedReport:
    configuration: dict[str, ClaimValue] = {
        "secure_boot": evidence.hcl.secure_boot,
        "tpm_enabled": evidence.hcl.tpm_enabled,
    }
    return VerifiedReport(
        tee=tee,
        report_data=bound_by(evidence.tpm),
        claims={**hardware.claims, **tpm_claims(evidence.tpm, key), **configuration},
        checks=checks.done(),
    )


def _other_hardware(expected: str, evidence: AzureEvidence) -> MalformedError:
    return MalformedError(
        "azure.kind",
        "the evidence is of other hardware",
        field="report type",
        expected=expected,
        got=evidence.hcl.kind,
    )


def verify_virtual_tpm(evidence: AzureEvidence, checks: CheckList) -> rsa.RSAPublicKey:
    """Rule 2; returns the attestation key.

    Raises:
        MalformedError: ``azure.ak``; NotGenuineError: ``tpm.*``.
    """
    hcl = evidence.hcl
    if not _MIN_BITS <= hcl.ak_modulus.bit_length() <= _MAX_BITS:
        raise MalformedError(
            "azure.ak", "the attestation key has an unexpected size", field="HCLAkPub",
            expected=f"{_MIN_BITS} to {_MAX_BITS} bits", got=f"{hcl.ak_modulus.bit_length()} bits",
        )  # fmt: skip
    try:
        key = rsa.RSAPublicNumbers(hcl.ak_exponent, hcl.ak_modulus).public_key()
    except ValueError as error:
        raise MalformedError(
            "azure.ak", "the attestation key can't be used", field="HCLAkPub", got=str(error)[:80]
        ) from error
    verify_tpm_quote(evidence.tpm, key, checks)
    return key


def check_binding(hcl: HclReport, report_data: ReportData) -> None:
    """Rule 3.

    Raises:
        NotGenuineError: ``azure.binding``.
    """
    expected = bytes(sha256(hcl.variable_data)).ljust(ReportData.length, b"\0")
    if bytes(report_data) != expected:
        raise NotGenuineError(
            "azure.binding",
            "the paravisor's document isn't the one that the hardware vouches for",
            field="report_data",
            expected=expected.hex(),
            got=report_data.hex(),
            remedy="Nothing can repair it: the document was exchanged.",
        )
