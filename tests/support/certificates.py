"""Certificates where they stand in evidence."""

from __future__ import annotations

from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.pki import pem

_REPORT_END = 432


def with_chain(quote: bytes, *, of: DcapPlatform, to: DcapPlatform) -> bytes:
    """An enclave's quote with another platform's chain in the place of its own."""
    own, other = (
        pem(each.pck.certificate, each.pck_ca.certificate, each.root_ca.certificate)
        for each in (of, to)
    )
    start = quote.index(own)
    tail = len(other).to_bytes(4, "little") + other
    size = start - 4 - (_REPORT_END + 4) + len(tail)
    signature = quote[_REPORT_END + 4 : start - 4]
    return quote[:_REPORT_END] + size.to_bytes(4, "little") + signature + tail
