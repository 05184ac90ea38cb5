"""Intel's collateral for quotes: TCB information, QE identity, their chains, revocation lists.

Source: Intel, "PCS API" version 4; the JSON object that carries all of it is the one that PCCS
clients exchange. Signed texts are kept as they came: a signature covers the very bytes.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509

from casemate.encoding import MapReader, decode_hex, decode_json
from casemate.endorsements.certificates import load_certificates, load_revocation_lists
from casemate.endorsements.tcb import TcbLevels, read_tcb_levels, read_time
from casemate.errors import MalformedError

MAX_SIZE = 1024 * 1024
_DOCUMENTS = ("tcb_info", "qe_identity")
_TEXTS = (
    "pck_crl_issuer_chain", "root_ca_crl", "pck_crl", "tcb_info_issuer_chain", "tcb_info",
    "tcb_info_signature", "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class DcapCollateral:
    """Collateral for one platform.

    Args:
        text: the JSON object, for whoever verifies, without a PCK chain.
        valid_from: when all of it has been issued.
        valid_until: when the first part of it ends: the least of all "next updates".
        ends_first: which part that is.
        tcb_evaluation_data_number: how new Intel's knowledge in it is.
        platforms: which it is for: ``SGX`` or ``TDX``, and the FMSPC.
        issued: when the older of TCB information and QE identity was issued.
        levels: the TCB levels in these two.
        signers: whose certificate stands first in the chain of each of these two.
    """

    text: str
    valid_from: datetime.datetime
    valid_until: datetime.datetime
    ends_first: str
    tcb_evaluation_data_number: int
    issued: datetime.datetime
    levels: TcbLevels
    signers: tuple[x509.Certificate, x509.Certificate]
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
    # A PCK chain of its own is for quotes that carry none. The library would prefer it to the
    # quote's, which then nobody had verified: quotes here carry one, and that one counts.
    own_chain = top.take_optional("pck_certificate_chain", str)
    top.finish()
    text = data.decode() if own_chain is None else json.dumps(fields)
    tcb_info, qe_identity = (_document(name, fields[name]) for name in _DOCUMENTS)
    spans = {
        name: (read_time(each, "issueDate"), read_time(each, "nextUpdate"))
        for name, each in zip(_DOCUMENTS, (tcb_info, qe_identity), strict=True)
    }
    issued = min(start for start, _ in spans.values())
    platforms = f"{tcb_info.take('id', str)} {tcb_info.take('fmspc', str).lower()}"
    number = min(each.take("tcbEvaluationDataNumber", int) for each in (tcb_info, qe_identity))
    for name in ("root_ca_crl", "pck_crl"):
        der = decode_hex(fields[name].lower(), field=name)
        (parsed,) = load_revocation_lists(der, what=name)
        if parsed.next_update_utc is None:
            raise _malformed(name, "a time of the next update", "none")
        spans[name] = parsed.last_update_utc, parsed.next_update_utc
    first = min(spans, key=lambda name: spans[name][1])
    return DcapCollateral(
        text=text,
        valid_from=max(start for start, _ in spans.values()),
        valid_until=spans[first][1],
        ends_first=first,
        tcb_evaluation_data_number=number,
        platforms=platforms,
        issued=issued,
        levels=read_tcb_levels(tcb_info, qe_identity),
        signers=(_signer(fields, "tcb_info"), _signer(fields, "qe_identity")),
    )


def _signer(fields: Mapping[str, str], name: str) -> x509.Certificate:
    chain = f"{name}_issuer_chain"
    return load_certificates(fields[chain].encode(), what=chain)[0]


def _document(name: str, text: str) -> MapReader:
    return MapReader(decode_json(text.encode(), what=name, max_size=MAX_SIZE), what=name)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.dcap",
        f"the DCAP collateral is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
