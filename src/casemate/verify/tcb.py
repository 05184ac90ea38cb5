"""What a genuine quote and Intel's collateral say of the platform beyond a status.

dcap-qvl gives a status for all of it together. A policy may ask for more: the day of the security
level that the platform has, how long it has been out of date, which kind of platform it is, and
what its owner switched on.

Source: Intel, "PCS API" version 4, "Get TCB Info" (how a TCB level is determined); "PCK Certificate
and CRL Specification", section 1.3.5, for the certificate's extension.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator

from casemate.encoding import MapReader, decode_json
from casemate.endorsements.dcap import MAX_SIZE, DcapCollateral
from casemate.errors import MalformedError
from casemate.evidence.quote import Quote, SgxReport, TdReport
from casemate.verify.report import ClaimValue

_CONFIGURATION = "1.2.840.113741.1.13.1.7"
_FLAGS = {"dynamic_platform": 1, "cached_keys": 2, "smt_enabled": 3}
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
        ``fmspc``; ``platform_instance_id`` where the certificate has one; ``dynamic_platform``,
        ``cached_keys`` and ``smt_enabled`` as ``true``, ``false`` or ``undefined``; ``tcb_date``,
        the oldest day of the levels of platform, TDX module and quoting enclave;
        ``tcb_out_of_date_days`` since that day, or 0 where the status isn't out of date;
        ``collateral_age_days`` since the older of TCB information and QE identity was issued.

    Raises:
        MalformedError: ``dcap.tcb-level`` where no level matches.
    """
    import dcap_qvl  # a large library that only quotes need

    pck = dcap_qvl.parse_quote(quote.data).pck_extension()
    top = _document(collateral.text, "collateral")
    tcb_info = _document(top.take("tcb_info", str), "tcb_info")
    qe_identity = _document(top.take("qe_identity", str), "qe_identity")
    issued = min(_time(each.take("issueDate", str)) for each in (tcb_info, qe_identity))
    days = [
        _platform_day(tcb_info, quote, bytes(pck.cpu_svn), int(pck.pce_svn)),
        *_module_days(tcb_info, quote),
        _day(_levels(qe_identity), lambda tcb: _qe_svn(quote) >= tcb.take("isvsvn", int)),
    ]
    oldest = min(days)
    claims: dict[str, ClaimValue] = {
        name: _flag(pck.get_value(f"{_CONFIGURATION}.{number}")) for name, number in _FLAGS.items()
    }
    if pck.platform_instance_id is not None:
        claims["platform_instance_id"] = bytes(pck.platform_instance_id)
    return claims | {
        "fmspc": bytes(pck.fmspc),
        "tcb_date": oldest.date().isoformat(),
        "tcb_out_of_date_days": (at - oldest).days if status in _OUT_OF_DATE else 0,
        "collateral_age_days": (at - issued).days,
    }


def _platform_day(
    tcb_info: MapReader, quote: Quote, cpu_svn: bytes, pce_svn: int
) -> datetime.datetime:
    """Of the first level that the platform reaches in every component."""
    report = quote.report

    def reached(tcb: MapReader) -> bool:
        if not _reaches(cpu_svn, tcb, "sgxtcbcomponents") or pce_svn < tcb.take("pcesvn", int):
            return False
        if isinstance(report, SgxReport):
            return True
        # From module version 1, its own two components are judged by its identity instead.
        skipped = 2 if report.tee_tcb_svn[1] else 0
        return _reaches(report.tee_tcb_svn, tcb, "tdxtcbcomponents", skipped)

    return _day(_levels(tcb_info), reached)


def _module_days(tcb_info: MapReader, quote: Quote) -> Iterator[datetime.datetime]:
    """Of the TDX module, where it has an identity of its own."""
    report = quote.report
    if isinstance(report, SgxReport) or not report.tee_tcb_svn[1]:
        return
    svn, name = report.tee_tcb_svn[0], f"TDX_{report.tee_tcb_svn[1]:02X}"
    for each in tcb_info.take_list("tdxModuleIdentities"):
        module = MapReader(each, what="tdxModuleIdentities")
        if module.take("id", str).upper() == name:
            yield _day(_levels(module), lambda tcb: svn >= tcb.take("isvsvn", int))


def _qe_svn(quote: Quote) -> int:
    """The security version of the quoting enclave, out of its report in the quote."""
    at = _HEADER + (_BODY_HEADER if quote.version > 4 else 0) + _SIZES[type(quote.report)]
    if isinstance(quote.report, TdReport) and quote.report.mr_service_td is not None:
        at += _TD15_EXTRA
    at += _LENGTH + _SIGNATURE_AND_KEY + (_CERTIFICATION_HEADER if quote.version > 3 else 0)
    return int.from_bytes(quote.data[at:][_ISV_SVN], "little")


def _levels(holder: MapReader) -> list[MapReader]:
    return [MapReader(each, what="tcbLevels") for each in holder.take_list("tcbLevels")]


def _day(levels: list[MapReader], reached: Callable[[MapReader], bool]) -> datetime.datetime:
    for level in levels:  # the newest first
        if reached(level.take_map("tcb")):
            return _time(level.take("tcbDate", str))
    raise MalformedError(
        "dcap.tcb-level",
        "the collateral has no level that the platform reaches",
        field="tcbLevels",
        expected="a level for the platform, its TDX module and its quoting enclave",
        got="none",
        remedy="Fetch the collateral again.",
    )


def _reaches(svns: bytes, tcb: MapReader, name: str, skipped: int = 0) -> bool:
    components = [MapReader(each, what=name) for each in tcb.take_list(name)]
    return len(components) == len(svns) and all(
        svn >= component.take("svn", int)
        for svn, component in list(zip(svns, components, strict=True))[skipped:]
    )


def _flag(value: bytes | None) -> str:
    if not value:
        return "undefined"
    return "true" if value != b"\0" else "false"


def _document(text: str, what: str) -> MapReader:
    return MapReader(decode_json(text.encode(), what=what, max_size=MAX_SIZE), what=what)


def _time(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise MalformedError(
            "dcap.tcb-level", "the collateral has a day that isn't one", field="tcbDate",
            expected="such as 2025-06-19T10:00:00Z", got=text[:40],
        ) from error  # fmt: skip
    return moment.replace(tzinfo=datetime.UTC)
