"""Event logs: what was measured into registers, of TPMs and of TDX (CCEL).

Source: TCG, "PC Client Platform Firmware Profile", revision 1.06, sections 10.2.1 (TCG_PCR_EVENT),
10.2.2 (TCG_PCR_EVENT2) and 10.4.5.1 (TCG_EfiSpecIDEvent); UEFI 2.10, section 38.4 for CCEL, whose
register 0 is the initial measurement and 1 to 4 are RTMR 0 to 3. All integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding import ByteReader
from casemate.errors import MalformedError

MAX_SIZE = 8 * 1024 * 1024
EV_NO_ACTION = 3
_SPEC_ID = b"Spec ID Event03\0"
_MAX_EVENTS = 65536
_MAX_EVENT = 4 * 1024 * 1024
_HASHES = {
    0x0004: ("sha1", 20),
    0x000B: ("sha256", 32),
    0x000C: ("sha384", 48),
    0x000D: ("sha512", 64),
}
_END = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedEvent:
    """One event.

    Args:
        register: which register it was measured into.
        type: of the event, as TCG numbers them.
        digests: what was extended, by hash.
        data: the event's own bytes; they are a description, not what was hashed, for many types.
    """

    register: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes


def parse_event_log(data: bytes) -> tuple[LoggedEvent, ...]:
    """Parse a log in the crypto-agile format.

    Args:
        data: at most 8 MiB. What is beyond the last event must be all ones or all zeros: the rest
            of the table that the firmware reserved.

    Raises:
        MalformedError: ``eventlog.malformed``, ``encoding.*``.

    Does not check: that these events were measured at all (`casemate.verify.eventlog`).
    """
    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    r = ByteReader(data, what="event log")
    sizes = _header(r)
    events: list[LoggedEvent] = []
    while r.remaining >= 8:
        register, kind = r.uint(4, "register"), r.uint(4, "event type")
        if register == _END or (register == 0 and kind == 0):
            break
        if len(events) >= _MAX_EVENTS:
            raise _malformed("events", f"at most {_MAX_EVENTS}", "more")
        events.append(_event(r, register, kind, sizes))
    rest = r.take(r.remaining, "rest")
    if rest.strip(b"\xff") and rest.strip(b"\0"):
        raise _malformed("rest", "nothing but ones or zeros after the last event", "other bytes")
    return tuple(events)


def _header(r: ByteReader) -> dict[int, tuple[str, int]]:
    """The first event, in the old format, which names the digests that follow."""
    first = r.uint(4, "first register")
    if first not in (0, 1):  # CCEL numbers from 1
        raise _malformed("first register", "0 or 1", str(first))
    r.expect(EV_NO_ACTION.to_bytes(4, "little"), "first event type")
    r.zeros(20, "first digest")
    inner = ByteReader(r.take(r.uint(4, "first event size"), "first event"), what="Spec ID event")
    inner.expect(_SPEC_ID, "signature")
    inner.take(8, "platform class and version")
    count = inner.uint(4, "number of algorithms")
    if not 0 < count <= len(_HASHES):
        raise _malformed("number of algorithms", f"1 to {len(_HASHES)}", str(count))
    sizes = {}
    for _ in range(count):
        algorithm, size = inner.uint(2, "algorithm"), inner.uint(2, "digest size")
        if algorithm not in _HASHES or _HASHES[algorithm][1] != size:
            raise _malformed("algorithm", "a hash of its own size", f"{algorithm:#x}: {size}")
        sizes[algorithm] = _HASHES[algorithm]
    inner.take(inner.uint(1, "vendor info size"), "vendor info")
    inner.finish()
    return sizes


def _event(
    r: ByteReader, register: int, kind: int, sizes: Mapping[int, tuple[str, int]]
) -> LoggedEvent:
    count = r.uint(4, "number of digests")
    if count != len(sizes):
        raise _malformed("number of digests", str(len(sizes)), str(count))
    digests: dict[str, bytes] = {}
    for _ in range(count):
        algorithm = r.uint(2, "digest algorithm")
        if algorithm not in sizes or sizes[algorithm][0] in digests:
            raise _malformed("digest algorithm", "each of those announced, once", f"{algorithm:#x}")
        name, size = sizes[algorithm]
        digests[name] = r.take(size, "digest")
    length = r.uint(4, "event size")
    if length > _MAX_EVENT:
        raise _malformed("event size", f"at most {_MAX_EVENT}", str(length))
    return LoggedEvent(
        register=register,
        type=kind,
        digests=MappingProxyType(digests),
        data=r.take(length, "event"),
    )


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "eventlog.malformed",
        f"the event log has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
