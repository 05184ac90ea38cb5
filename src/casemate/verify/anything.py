"""One door for every kind of evidence that can be verified from files.

Each kind's verifier is imported when it is first needed: who verifies one needn't wait for all.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace

from cryptography import x509

from casemate.endorsements.collection import Endorsements
from casemate.errors import UsageError
from casemate.evidence import Tee
from casemate.evidence.detect import RATLS
from casemate.evidence.eventlog import LoggedEvent
from casemate.verify.checks import CheckList
from casemate.verify.eventlog import check_ccel, check_tpm_log
from casemate.verify.report import VerifiedReport
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots
from casemate.verify.verifier import SIMULATED_CHECK, Known, TrustAnchors

_WITH_PCRS = (Tee.TPM, Tee.AZURE_SNP, Tee.AZURE_TDX)
_PCRS = 24


def verify_anything(
    kind: str,
    data: bytes,
    *,
    endorsements: Endorsements,
    at: datetime.datetime,
    eventlog: Sequence[LoggedEvent] | None = None,
    development_roots: Sequence[bytes] = (),
    roots: VendorRoots = VENDOR_ROOTS,
    checks: CheckList,
) -> VerifiedReport:
    """Verify evidence under the vendors' pinned roots.

    Args:
        kind: as `casemate.evidence.detect.detect` names it.
        data: the evidence.
        endorsements: what came along.
        at: the time at which all must be valid.
        eventlog: held against the report's registers, if given.
        development_roots: of simulated evidence.
        roots: the vendors'; others only in tests with authorities of their own.
        checks: collects the checks, also of a verification that fails.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: see each TEE's verifier.
        UsageError: ``verify.eventlog`` where the evidence has no registers that a log fills.
    """
    certificates, lists = endorsements.certificates, endorsements.revocation_lists
    dcap = endorsements.dcap
    match kind:
        case Tee.SGX | Tee.TDX:
            from casemate.verify.dcap import verify_quote

            report = verify_quote(data, collateral=dcap, at=at, root=roots.intel, checks=checks)
        case Tee.SNP:
            from casemate.verify.snp import verify_snp

            report = verify_snp(
                data, certificates=certificates, revocation_lists=lists, at=at, roots=roots.amd,
                checks=checks,
            )  # fmt: skip
        case Tee.NITRO:
            from casemate.verify.nitro import verify_nitro

            report = verify_nitro(data, at=at, roots=(roots.nitro,), checks=checks)
        case Tee.TPM:
            from casemate.verify.tpm import verify_tpm

            report = verify_tpm(
                data, activations=endorsements.ak_activations, at=at, ek_roots=roots.tpm,
                checks=checks,
            )  # fmt: skip
        case Tee.AZURE_SNP:
            from casemate.verify.azure import verify_azure_snp

            report = verify_azure_snp(
                data, certificates=certificates, revocation_lists=lists, at=at, roots=roots.amd,
                checks=checks,
            )  # fmt: skip
        case Tee.AZURE_TDX:
            from casemate.verify.azure import verify_azure_tdx

            report = verify_azure_tdx(data, collateral=dcap, at=at, root=roots.intel, checks=checks)
        case Tee.NVIDIA:
            from casemate.verify.nvidia import verify_nvidia

            report = verify_nvidia(
                data, chain=device_chain(certificates), rims=endorsements.rims,
                rim_roots=certificates, ocsp_responses=endorsements.ocsp_responses, at=at,
                device_roots=(roots.nvidia_device,),
                manifest_roots=(roots.nvidia_rim,), checks=checks,
            )  # fmt: skip
        case Tee.CCA:
            from casemate.verify.cca import verify_cca

            report = verify_cca(data, platform_keys=endorsements.keys, checks=checks)
        case Tee.MAA:
            from casemate.verify.maa import verify_maa

            report = verify_maa(data, keys=endorsements.token_keys, at=at, checks=checks)
        case Tee.EAR:
            from casemate.verify.ear import verify_ear

            report = verify_ear(data, keys=endorsements.keys, at=at, checks=checks)
        case Tee.COMPOSITE:
            from casemate.verify.composite import verify_composite

            report = verify_composite(
                data,
                endorsements=endorsements,
                verify_member=lambda member, content, given: verify_anything(
                    member, content, endorsements=given, at=at,
                    development_roots=development_roots, roots=roots, checks=checks,
                ),
                checks=checks,
            )  # fmt: skip
        case Tee.SIMULATED:
            from casemate.verify.simulated import verify_simulated

            with checks.check(*SIMULATED_CHECK):
                report = verify_simulated(data, roots=development_roots)
        case _ if kind == RATLS:
            from casemate.verify.ratls import verify_attested_certificate

            report = verify_attested_certificate(
                data,
                anchors=TrustAnchors(development_roots=tuple(development_roots), vendors=roots),
                known=Known(at=at, endorsements=endorsements),
                checks=checks,
            )
        case _:
            raise UsageError(
                "verify.tee", "evidence of that kind isn't verified by itself", field="--tee",
                got=kind,
            )  # fmt: skip
    if eventlog is not None:
        with checks.check("eventlog.replay", "the log gives the registers that were attested"):
            report = _with_log(report, eventlog)
            report = replace(report, claims={**report.claims, "event_log": "replayed"})
    return replace(report, checks=checks.done())


def device_chain(certificates: Sequence[x509.Certificate]) -> list[x509.Certificate]:
    """A GPU's chain, leaf first: from the certificate that issued none of the others.

    Does not check: any signature; the order comes from names.
    """
    issuers = {each.issuer for each in certificates}
    chain = [each for each in certificates if each.subject not in issuers][:1]
    while chain and chain[-1].issuer != chain[-1].subject and len(chain) < len(certificates):
        above = [each for each in certificates if each.subject == chain[-1].issuer]
        if not above:
            break
        chain.append(above[0])
    return chain


def _with_log(report: VerifiedReport, eventlog: Sequence[LoggedEvent]) -> VerifiedReport:
    """The report, with what the log adds to it."""
    if report.tee is Tee.TDX:
        check_ccel(eventlog, [_bytes(report, f"rtmr{number}") for number in range(4)])
        return report
    if report.tee in _WITH_PCRS:
        named = [number for number in range(_PCRS) if f"pcr{number}" in report.claims]
        secure = check_tpm_log(
            eventlog, {number: _bytes(report, f"pcr{number}") for number in named}
        )
        if report.tee is not Tee.TPM or secure is None:  # Azure's paravisor says it itself
            return report
        return replace(report, claims={**report.claims, "secure_boot": secure})
    raise UsageError(
        "verify.eventlog",
        "this evidence has no registers that an event log fills",
        field="--eventlog",
        expected="evidence of a TPM or of TDX",
        got=report.tee,
    )


def _bytes(report: VerifiedReport, name: str) -> bytes:
    value = report.claims[name]
    assert isinstance(value, bytes)
    return value
