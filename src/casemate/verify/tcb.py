"""What a genuine quote and Intel's collateral say of the platform beyond a status.

dcap-qvl gives a status for all of it together. A policy may ask for more: the day of the security
level that the platform has, how long it has been out of date, which kind of platform it is, and
what its owner switched on.

Source: Intel, "PCS API" version 4, "Get TCB Info" (how a TCB level is determined); "PCK Certificate
and CRL Specification", section 1.3.5, for the certificate's extension.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence

from casemate.endorsements.dcap import DcapCollateral
from casemate.endorsements.tcb import EnclaveLevel, TcbLevels
from casemate.errors import MalformedError
from casemate.evidence.quote import Quote, SgxReport, TdReport
from casemate.verify.report import ClaimValue

_CONFIGURATION = "1.2.840.113741.1.13.1.7"
_FLAGS = {"dynamic_platform": 1, "cached_keys": 2, "smt_enabled": 3}
_SGX_TYPES = {0: "standard", 1: "scalable", 2: "scalable-with-integrity"}
_OUT_OF_DATE = ("OutOfDate", "OutOfDateConfigurationNeeded")
_HEADER, _BODY_HEADER, _LENGTH = 48, 6, 4
_SIZES = {SgxReport: 384, TdReport: 584}
_TD15_EXTRA = 64
_SIGNATURE_AND_KEY, _CERTIFICATION_HEADER = 128, 6
_ISV_SVN = slice(258, 260)


def platform_claims(
    quote: Quote, collateral: DcapCollateral, *, status: str, at: datetime.datetime
) -> dict[str, ClaimValue]:
    """Claims of a quote that was verified with this collateral.

    Args:
        quote: genuine.
        collateral: what it was verified with.
        status: what that gave.
        at: the time.

    Returns:
        ``fmspc``; ``sgx_type``; ``platform_instance_id`` where the certificate has one;
        ``dynamic_platform``, ``cached_keys`` and ``smt_enabled`` as ``true``, ``false`` or
        ``undefined``; ``tcb_date``, the oldest day of the levels of platform, TDX module and
        quoting enclave; ``tcb_out_of_date_days`` since that day, or 0 where the status isn't out
        of date; ``collateral_age_days`` since the older of TCB information and QE identity was
        issued.

    Raises:
        MalformedError: ``dcap.tcb-level`` where no level matches.
    """
    import dcap_qvl  # a large library that only quotes need

    pck = dcap_qvl.parse_quote(quote.data).pck_extension()
    levels = collateral.levels
    oldest = min(
        _platform_day(levels, quote, bytes(pck.cpu_svn), int(pck.pce_svn)),
        *_module_days(levels, quote),
        _enclave_day(levels.quoting_enclave, _qe_svn(quote)),
    )
    claims: dict[str, ClaimValue] = {
        name: _flag(pck.get_value(f"{_CONFIGURATION}.{number}")) for name, number in _FLAGS.items()
    }
    if pck.platform_instance_id is not None:
        claims["platform_instance_id"] = bytes(pck.platform_instance_id)
    return claims | {
        "fmspc": bytes(pck.fmspc),
        "sgx_type": _SGX_TYPES.get(int(pck.sgx_type), "unknown"),
        "tcb_date": oldest.date().isoformat(),
        "tcb_out_of_date_days": (at - oldest).days if status in _OUT_OF_DATE else 0,
        "collateral_age_days": (at - collateral.issued).days,
    }


def _platform_day(
    levels: TcbLevels, quote: Quote, cpu_svn: bytes, pce_svn: int
) -> datetime.datetime:
    """Of the first level that the platform reaches in every component."""
    tdx = None if isinstance(quote.report, SgxReport) else quote.report.tee_tcb_svn
    # From module version 1, its own two components are judged by its identity instead.
    skipped = 2 if tdx is not None and tdx[1] else 0
    for level in levels.platform:
        if not _reaches(cpu_svn, level.sgx) or pce_svn < level.pce_svn:
            continue
        if tdx is None or (level.tdx is not None and _reaches(tdx[skipped:], level.tdx[skipped:])):
            return level.day
    raise _unreached("platform")


def _module_days(levels: TcbLevels, quote: Quote) -> Iterator[datetime.datetime]:
    """Of the TDX module, where it has an identity of its own."""
    report = quote.report
    if isinstance(report, SgxReport) or not report.tee_tcb_svn[1]:
        return
    module = levels.modules.get(f"TDX_{report.tee_tcb_svn[1]:02X}", ())
    yield _enclave_day(module, report.tee_tcb_svn[0])


def _enclave_day(levels: Sequence[EnclaveLevel], svn: int) -> datetime.datetime:
    for level in levels:
        if svn >= level.isv_svn:
            return level.day
    raise _unreached("TDX module or quoting enclave")


def _reaches(svns: bytes, level: bytes) -> bool:
    return all(svn >= least for svn, least in zip(svns, level, strict=True))


def _qe_svn(quote: Quote) -> int:
    """The security version of the quoting enclave, out of its report in the quote."""
    at = _HEADER + (_BODY_HEADER if quote.version > 4 else 0) + _SIZES[type(quote.report)]
    if isinstance(quote.report, TdReport) and quote.report.mr_service_td is not None:
        at += _TD15_EXTRA
    at += _LENGTH + _SIGNATURE_AND_KEY + (_CERTIFICATION_HEADER if quote.version > 3 else 0)
    return int.from_bytes(quote.data[at:][_ISV_SVN], "little")


def _flag(value: bytes | None) -> str:
    if not value:
        return "undefined"
    return "true" if value != b"\0" else "false"


def _unreached(what: str) -> MalformedError:
    return MalformedError(
        "dcap.tcb-level",
        f"the collateral has no level that the {what} reaches",
        field="tcbLevels",
        expected="a level for the platform, its TDX module and its quoting enclave",
        got="none",
        remedy="Fetch the collateral again.",
    )
