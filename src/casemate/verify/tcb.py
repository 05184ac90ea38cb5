"""What a genuine quote and Intel's collateral say of the platform beyond a status.

dcap-qvl gives a status for all of it together. A policy may ask for more: the day of the security
level that the platform has, how long it has been out of date, which kind of platform it is, and
what its owner switched on.

Source: Intel, "PCS API" version 4, "Get TCB Info" (how a TCB level is determined); "PCK Certificate
and CRL Specification", section 1.3.5, for the certificate's extension.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from casemate.endorsements.dcap import DcapCollateral
from casemate.endorsements.tcb import EnclaveLevel, PlatformLevel, TcbLevels
from casemate.errors import MalformedError
from casemate.evidence.quote import Quote, SgxReport, TdReport
from casemate.verify.report import ClaimValue

_Level = TypeVar("_Level", PlatformLevel, EnclaveLevel)
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
        quoting enclave; ``tcb_out_of_date_days`` since the day of the next newer level, or 0 where
        the status isn't out of date; ``collateral_age_days`` since the older of TCB information
        and QE identity was issued.

    Raises:
        MalformedError: ``dcap.tcb-level`` where no level matches.
    """
    import dcap_qvl  # a large library that only quotes need

    pck = dcap_qvl.parse_quote(quote.data).pck_extension()
    levels = collateral.levels
    reached = [
        _of_platform(levels, quote, bytes(pck.cpu_svn), int(pck.pce_svn)),
        *_of_module(levels, quote),
        _of_enclave(levels.quoting_enclave, _qe_svn(quote)),
    ]
    oldest = min(each.day for each in reached)
    outdated = min((each.outdated for each in reached if each.outdated), default=oldest)
    claims: dict[str, ClaimValue] = {
        name: _flag(pck.get_value(f"{_CONFIGURATION}.{number}")) for name, number in _FLAGS.items()
    }
    if pck.platform_instance_id is not None:
        claims["platform_instance_id"] = bytes(pck.platform_instance_id)
    return claims | {
        "fmspc": bytes(pck.fmspc),
        "sgx_type": _SGX_TYPES.get(int(pck.sgx_type), "unknown"),
        "tcb_date": oldest.date().isoformat(),
        "tcb_out_of_date_days": (at - outdated).days if status in _OUT_OF_DATE else 0,
        "collateral_age_days": (at - collateral.issued).days,
    }


@dataclass(frozen=True, slots=True)
class _Reached:
    """The level that a part of the platform reaches: its day, and that of the next newer one."""

    day: datetime.datetime
    outdated: datetime.datetime | None


def _first(levels: Sequence[_Level], reaches: Callable[[_Level], bool], what: str) -> _Reached:
    """The first level, of those that begin with the newest, that is reached."""
    for index, level in enumerate(levels):
        if reaches(level):
            newer = [each.day for each in levels[:index] if each.day > level.day]
            return _Reached(level.day, min(newer, default=None))
    raise MalformedError(
        "dcap.tcb-level",
        f"the collateral has no level that the {what} reaches",
        field="tcbLevels",
        expected="a level for the platform, its TDX module and its quoting enclave",
        got="none",
        remedy="Fetch the collateral again.",
    )


def _of_platform(levels: TcbLevels, quote: Quote, cpu_svn: bytes, pce_svn: int) -> _Reached:
    tdx = None if isinstance(quote.report, SgxReport) else quote.report.tee_tcb_svn
    # From module version 1, its own two components are judged by its identity instead.
    skipped = 2 if tdx is not None and tdx[1] else 0

    def reaches(level: PlatformLevel) -> bool:
        if not _reaches(cpu_svn, level.sgx) or pce_svn < level.pce_svn:
            return False
        return tdx is None or (
            level.tdx is not None and _reaches(tdx[skipped:], level.tdx[skipped:])
        )

    return _first(levels.platform, reaches, "platform")


def _of_module(levels: TcbLevels, quote: Quote) -> Iterator[_Reached]:
    """Of the TDX module, where it has an identity of its own."""
    report = quote.report
    if isinstance(report, SgxReport) or not report.tee_tcb_svn[1]:
        return
    module = levels.modules.get(f"TDX_{report.tee_tcb_svn[1]:02X}", ())
    yield _of_enclave(module, report.tee_tcb_svn[0])


def _of_enclave(levels: Sequence[EnclaveLevel], svn: int) -> _Reached:
    return _first(levels, lambda level: svn >= level.isv_svn, "TDX module or quoting enclave")


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
