"""Intel's collateral for quotes: TCB information, QE identity, their chains, revocation lists.

Source: Intel, "PCS API" version 4; the JSON object that carries all of it is the one that PCCS
clients exchange. Signed texts are kept as they came: a signature covers the very bytes.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from casemate.encoding import MapReader, decode_hex, decode_json
from casemate.endorsements.certificates import load_revocation_lists
from casemate.errors import MalformedError

MAX_SIZE = 1024 * 1024
_TEXTS = (
    "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info",
    "tcb_info_signature", "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapCollateral:
    """Collateral for one platform.

    Args:
        text: the JSON object as it came, for whoever verifies.
        valid_from: when all of it has been issued.
        valid_until: when the first part of it ends: the least of all "next updates".
        ends_first: which part that is.
        tcb_evaluation_data_number: how new Intel's knowledge in it is.
        platforms: which it is for: ``SGX`` or ``TDX``, and the FMSPC.
    """

    text: str
    valid_from: datetime.datetime
    valid_until: datetime.datetime
    ends_first: str
    tcb_evaluation_data_number: int
    platforms: str = ""


def parse_dcap_collateral(data: bytes) -> DcapCollateral:
    """Parse collateral.

    Args:
        data: JSON, at most 1 MiB.

    Raises:
        MalformedError: ``endorsements.dcap``, ``encoding.*``.

    Does not check: any signature (`casemate.verify.dcap`).
    """
    top = MapReader(decode_json(data, what="DCAP collateral", max_size=MAX_SIZE), what="collateral")
    fields = {name: top.take(name, str) for name in _TEXTS}
    if top.take_optional("pck_certificate_chain", str) is not None:
        pass  # a PCK chain of its own is for quotes that carry none; ours carry one
    top.finish()
    spans: dict[str, tuple[datetime.datetime, datetime.datetime]] = {}
    number, platforms = None, ""
    for name in ("tcb_info", "qe_identity"):
        text = fields[name].encode()
        inner = MapReader(decode_json(text, what=name, max_size=MAX_SIZE), what=name)
        spans[name] = _time(inner, "issueDate"), _time(inner, "nextUpdate")
        if name == "tcb_info":
            platforms = f"{inner.take('id', str)} {inner.take('fmspc', str).lower()}"
        mine = inner.take("tcbEvaluationDataNumber", int)
        number = mine if number is None else min(number, mine)
    for name in ("root_ca_crl", "pck_crl"):
        der = decode_hex(fields[name].lower(), field=name)
        (parsed,) = load_revocation_lists(der, what=name)
        if parsed.next_update_utc is None:
            raise _malformed(name, "a time of the next update", "none")
        spans[name] = parsed.last_update_utc, parsed.next_update_utc
    first = min(spans, key=lambda name: spans[name][1])
    assert number is not None
    return DcapCollateral(
        text=data.decode(),
        valid_from=max(start for start, _ in spans.values()),
        valid_until=spans[first][1],
        ends_first=first,
        tcb_evaluation_data_number=number,
        platforms=platforms,
    )


def _time(fields: MapReader, name: str) -> datetime.datetime:
    text = fields.take(name, str)
    try:
        moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise _malformed(fields.name(name), "a time such as 2025-06-19T10:00:00Z", text) from error
    return moment.replace(tzinfo=datetime.UTC)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.dcap",
        f"the DCAP collateral is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
