"""Verify Intel's quotes, of SGX enclaves and TDX trust domains.

 1. The quote parses, and what follows it is cut off (`casemate.evidence.quote`).
 2. The collateral is at hand and current at the given time, every part of it.
 3. Intel's own signer of TCB information signed it, and the QE identity: not just any key below
    the root, such as a platform's.
 4. The quote is of a kind that the library verifies: enclaves and TDs that can't be looked into.
 5. The library dcap-qvl verifies: PCK chain to Intel's root, revocation lists, QE report and
    identity, the quote's signature, TCB level of platform (and TDX module).
 6. What the library parsed is what we parsed.

dcap-qvl returns normally for platforms that are out of date: the status is the claim
``tcb_status``, and a policy that doesn't speak of it allows ``UpToDate`` alone. It refuses by
itself what a policy would refuse later: debug, TDs whose page-table faults can be injected
(without SEPT_VE_DISABLE), service TDs. Rule 4 says so first, with a reason of its own; whether
such a quote is genuine otherwise is then not known.

Source: see `casemate.evidence.quote` and `casemate.endorsements.dcap`.
"""

from __future__ import annotations

import datetime
import json
from functools import lru_cache
from typing import TYPE_CHECKING

from casemate.endorsements.dcap import DcapCollateral
from casemate.errors import NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.quote import Quote, SgxReport, TdReport, parse_quote
from casemate.verify.checks import CheckList
from casemate.verify.collateral import TCB_SIGNER, common_name
from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.tcb import platform_claims

if TYPE_CHECKING:
    import dcap_qvl

_SGX_VERSION = 3


def verify_quote(
    data: bytes,
    *,
    collateral: DcapCollateral | None,
    at: datetime.datetime,
    root: bytes | None = None,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a quote.

    Args:
        data: the quote.
        collateral: Intel's, for this platform.
        at: the time at which all must be valid.
        root: another root certificate than Intel's, DER, for tests with authorities of their own.
        checks: collects the checks.

    Returns:
        The report, as `Tee.SGX` or `Tee.TDX`, with Intel's names as claims.

    Raises:
        MalformedError: the quote can't be read.
        UnavailableError: ``dcap.no-collateral``, ``dcap.collateral-expired``,
            ``dcap.quote-version``.
        NotGenuineError: ``dcap.signer``, ``dcap.debug``, ``dcap.sept-ve-disable``,
            ``dcap.service-td``, ``dcap.verification``.

    Does not check: measurements, report data, TCB status, or any policy.
    """
    import dcap_qvl  # a large library that only quotes need

    checks = CheckList() if checks is None else checks
    with checks.check("dcap.quote", "the quote has the form that Intel's quoting enclave gives"):
        quote = parse_quote(data)
    with checks.check("dcap.collateral", "the collateral is at hand and current"):
        current = _current(collateral, at)
    with checks.check("dcap.signer", "Intel's signer of TCB information signed the collateral"):
        _check_signers(current)
    with checks.check("dcap.attributes", "what was quoted can't be looked into"):
        _check_attributes(quote)
    with checks.check(
        "dcap.verification", "PCK chain, revocation, QE, signature and TCB level hold"
    ):
        try:
            parsed = _for_library(current.text)
            now = int(at.timestamp())
            if root is None:
                verified = dcap_qvl.verify(quote.data, parsed, now)
            else:
                verified = dcap_qvl.verify_with_root_ca(quote.data, parsed, root, now)
        except ValueError as error:
            raise NotGenuineError(
                "dcap.verification",
                "the quote isn't genuine, or its platform's state is unknown",
                field="quote",
                expected="a quote that holds under the collateral",
                got=str(error)[:200],
                remedy="Fetch collateral for this platform; if it stays, don't trust the platform.",
            ) from error
    with checks.check("dcap.agreement", "two parsers read the same in the quote"):
        _check_agreement(quote, json.loads(verified.to_json()))
    claims = _sgx_claims(quote.report) if isinstance(quote.report, SgxReport) else _td_claims(
        quote.report
    )  # fmt: skip
    claims |= {
        "tcb_status": str(verified.status),
        "advisories": tuple(verified.advisory_ids),
        "ppid": bytes.fromhex(verified.ppid)
        if isinstance(verified.ppid, str)
        else bytes(verified.ppid),
        "tcb_evaluation_data_number": current.tcb_evaluation_data_number,
        "collateral_valid_until": current.valid_until.isoformat(),
        "quote_version": quote.version,
    }
    claims |= platform_claims(quote, current, status=str(verified.status), at=at)
    return VerifiedReport(
        tee=Tee.SGX if isinstance(quote.report, SgxReport) else Tee.TDX,
        report_data=quote.report.report_data,
        claims=claims,
        checks=checks.done(),
    )


@lru_cache(maxsize=8)
def _for_library(text: str) -> dcap_qvl.QuoteCollateralV3:
    """The collateral as the library takes it, kept from quote to quote.

    What is kept is the reading of a text, of the very same text, and can't be written to. Nothing
    that was found of it is kept: its signatures, dates and revocation lists are checked each time.
    """
    import dcap_qvl

    return dcap_qvl.QuoteCollateralV3.from_json(text)


def _current(collateral: DcapCollateral | None, at: datetime.datetime) -> DcapCollateral:
    if collateral is None:
        raise UnavailableError(
            "dcap.no-collateral",
            "whether the quote is genuine can't be told without Intel's collateral",
            field="collateral",
            expected="TCB information, QE identity and revocation lists",
            got="none",
            remedy="Fetch it from Intel's PCS or a PCCS.",
        )
    if not collateral.valid_from <= at < collateral.valid_until:
        raise UnavailableError(
            "dcap.collateral-expired",
            "the collateral isn't current, so what Intel knows now isn't known",
            field=collateral.ends_first,
            expected=f"a time from {collateral.valid_from.isoformat()} "
            f"to {collateral.valid_until.isoformat()}",
            got=at.isoformat(),
            remedy="Fetch it again from Intel's PCS or a PCCS, or check the clock.",
        )
    return collateral


def _check_signers(collateral: DcapCollateral) -> None:
    """Rule 3, by name; the library verifies the chain."""
    for name, signer in zip(("tcb_info", "qe_identity"), collateral.signers, strict=True):
        if (got := common_name(signer)) != TCB_SIGNER:
            raise NotGenuineError(
                "dcap.signer",
                "somebody signed the collateral who may not",
                field=f"{name}_issuer_chain",
                expected=TCB_SIGNER,
                got=got[:80],
                remedy="Fetch it from Intel's PCS, or a PCCS that passes on what it gives.",
            )


def _check_attributes(quote: Quote) -> None:
    """Rule 4."""
    report = quote.report
    if isinstance(report, SgxReport) and quote.version != _SGX_VERSION:
        raise UnavailableError(
            "dcap.quote-version",
            "quotes of enclaves in that version can't be verified here",
            field="version",
            expected=str(_SGX_VERSION),
            got=str(quote.version),
            remedy="Ask the quoting library for version 3.",
        )
    if report.debug:
        raise _refusal("debug", "it can be looked into", "no debug mode", "debug mode")
    if isinstance(report, SgxReport):
        return
    if not report.sept_ve_disable:
        raise _refusal(
            "sept-ve-disable", "its host can inject page faults", "SEPT_VE_DISABLE", "without it"
        )
    if report.mr_service_td is not None and any(report.mr_service_td):
        raise _refusal(
            "service-td", "a service TD may change it", "no service TD", report.mr_service_td.hex()
        )


def _refusal(code: str, reason: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        f"dcap.{code}",
        f"the quote isn't verified, for {reason}",
        field=code,
        expected=expected,
        got=got,
        remedy="Launch it with the attributes of a production guest or enclave.",
    )


def _check_agreement(quote: Quote, verified: dict[str, dict[str, dict[str, object]]]) -> None:
    (theirs,) = verified["report"].values()
    for name in ("base",):
        if isinstance(theirs.get(name), dict):
            theirs = {**theirs, **theirs[name]}  # type: ignore[dict-item]
    report = quote.report
    if isinstance(report, SgxReport):
        ours = {"mr_enclave": report.mr_enclave, "mr_signer": report.mr_signer}
    else:
        ours = {"mr_td": report.mr_td, "td_attributes": report.td_attributes}
    ours["report_data"] = bytes(report.report_data)
    for name, value in ours.items():
        if theirs.get(name) != value.hex():
            raise NotGenuineError(
                "dcap.agreement",
                "two parsers disagree about the quote",
                field=name,
                expected=str(theirs.get(name)),
                got=value.hex(),
            )


def _sgx_claims(report: SgxReport) -> dict[str, ClaimValue]:
    return {
        "mr_enclave": report.mr_enclave,
        "mr_signer": report.mr_signer,
        "isv_prod_id": report.isv_prod_id,
        "isv_svn": report.isv_svn,
        "debug": report.debug,
        "attributes": report.attributes,
        "misc_select": report.misc_select,
        "config_id": report.config_id,
        "config_svn": report.config_svn,
        "isv_family_id": report.isv_family_id,
        "isv_ext_prod_id": report.isv_ext_prod_id,
        "cpu_svn": report.cpu_svn,
    }


def _td_claims(report: TdReport) -> dict[str, ClaimValue]:
    claims: dict[str, ClaimValue] = {
        "mr_td": report.mr_td,
        "td_attributes": report.td_attributes,
        "debug": report.debug,
        "sept_ve_disable": report.sept_ve_disable,
        "xfam": report.xfam,
        "mr_config_id": report.mr_config_id,
        "mr_owner": report.mr_owner,
        "mr_owner_config": report.mr_owner_config,
        "mr_seam": report.mr_seam,
        "mr_signer_seam": report.mr_signer_seam,
        "seam_attributes": report.seam_attributes,
        "tee_tcb_svn": report.tee_tcb_svn,
    }
    claims |= {f"rtmr{number}": value for number, value in enumerate(report.rtmr)}
    if report.mr_service_td is not None:
        claims["mr_service_td"] = report.mr_service_td
    if report.tee_tcb_svn2 is not None:
        claims["tee_tcb_svn2"] = report.tee_tcb_svn2
    return claims
