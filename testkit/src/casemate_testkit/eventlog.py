"""Event logs of boots of our own, and the registers that they fill: a TPM's, or a trust domain's.

Source: see `casemate.evidence.eventlog`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SHA256, _SHA384 = 0x000B, 0x000C
_EFI_GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
_VARIABLE_DRIVER_CONFIG, _NO_ACTION, _SEPARATOR = 0x80000001, 3, 4


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a log.

    Args:
        register: where it is measured.
        type: as TCG numbers them.
        data: the event's own.
        digest: what is extended, if it isn't the data's.
    """

    register: int
    type: int
    data: bytes
    digest: bytes | None = None

    def measured(self, algorithm: str = "sha256") -> bytes:
        """What is extended."""
        return hashlib.new(algorithm, self.data).digest() if self.digest is None else self.digest


def secure_boot(value: bytes = b"\x01", *, digest: bytes | None = None) -> Event:
    """The firmware measures the variable SecureBoot."""
    variable = "SecureBoot"
    data = (
        _EFI_GLOBAL + len(variable).to_bytes(8, "little") + len(value).to_bytes(8, "little")
        + variable.encode("utf-16-le") + value
    )  # fmt: skip
    return Event(register=7, type=_VARIABLE_DRIVER_CONFIG, data=data, digest=digest)


def startup_locality(locality: int) -> Event:
    """Who started the TPM; extends nothing."""
    data = b"StartupLocality\0" + bytes((locality,))
    return Event(register=0, type=_NO_ACTION, data=data, digest=bytes(32))


BOOT: Sequence[Event] = (
    Event(register=0, type=8, data=b"firmware version"),
    secure_boot(),
    Event(register=4, type=0x80000003, data=b"boot loader"),
    Event(register=7, type=_SEPARATOR, data=bytes(4)),
)
"""A boot with secure boot on, into a TPM's registers."""

TD_BOOT: Sequence[Event] = (
    Event(register=1, type=0x8000000A, data=b"firmware volume"),
    Event(register=2, type=0x80000003, data=b"boot loader"),
    Event(register=3, type=13, data=b"kernel command line"),
)
"""A boot into a trust domain's registers, numbered from 1 as CCEL does."""


def event_log(events: Iterable[Event] = BOOT, *, td: bool = False) -> bytes:
    """A log in the crypto-agile format, of the SHA-256 bank; a trust domain's is of SHA-384."""
    name, algorithm, size = ("sha384", _SHA384, 48) if td else ("sha256", _SHA256, 32)
    spec = (
        b"Spec ID Event03\0" + bytes(8) + (1).to_bytes(4, "little")
        + algorithm.to_bytes(2, "little") + size.to_bytes(2, "little") + b"\0"
    )  # fmt: skip
    head = (
        int(td).to_bytes(4, "little") + _NO_ACTION.to_bytes(4, "little") + bytes(20)
        + len(spec).to_bytes(4, "little") + spec
    )  # fmt: skip
    return head + b"".join(
        each.register.to_bytes(4, "little") + each.type.to_bytes(4, "little")
        + (1).to_bytes(4, "little") + algorithm.to_bytes(2, "little") + each.measured(name)
        + len(each.data).to_bytes(4, "little") + each.data
        for each in events
    )  # fmt: skip


def registers(events: Iterable[Event] = BOOT, *, locality: int = 0) -> dict[int, bytes]:
    """What all 24 registers of a TPM hold after these events."""
    values = {number: (b"\xff" if 17 <= number <= 22 else b"\0") * 32 for number in range(24)}
    values[0] = bytes(31) + bytes((locality,))
    for event in events:
        if event.type != _NO_ACTION:
            old = values[event.register]
            values[event.register] = hashlib.sha256(old + event.measured()).digest()
    return values


def rtmrs(events: Iterable[Event] = TD_BOOT) -> list[bytes]:
    """What the four registers of a trust domain hold after these events."""
    values = [bytes(48)] * 4
    for event in events:
        old = values[event.register - 1]
        values[event.register - 1] = hashlib.sha384(old + event.measured("sha384")).digest()
    return values
