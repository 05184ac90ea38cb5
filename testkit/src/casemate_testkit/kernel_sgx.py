"""What library operating systems show an SGX enclave: Gramine's files, Occlum's device.

Quotes are made by whoever the test says, for the report data that the driver handed over.

Source: Gramine's documentation, "Attestation and Secret Provisioning"; Occlum's ``ioctl`` numbers
and ``sgx_ioctl`` structures. The memory that a request points to is read and written as the kernel
would do it: at the addresses in its structure.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from casemate_testkit.kernel_fuse import FuseError, PseudoFiles

MakeQuote = Callable[[bytes], bytes]
"""A quote for 64 bytes of report data."""

_FILES = (
    "attestation_type",
    "user_report_data",
    "target_info",
    "my_target_info",
    "report",
    "quote",
)


@dataclass
class GramineFiles(PseudoFiles):
    """``/dev/attestation``.

    Args:
        make_quote: the hardware.
        kind: ``dcap``, ``epid`` or ``none``.
        interferes: called before a quote is made: another thread's chance.
        report_data: of the enclave, as it was last written.
    """

    make_quote: MakeQuote
    kind: str = "dcap"
    interferes: Callable[[], None] = lambda: None
    report_data: bytes = bytes(64)

    def entries(self, path: str) -> dict[str, bool] | None:
        """The files; without attestation, the type alone."""
        if path:
            return None
        return dict.fromkeys(_FILES if self.kind != "none" else _FILES[:1], False)

    def read(self, path: str) -> bytes:
        """The type, or a quote made now."""
        if path == "attestation_type":
            return self.kind.encode()
        if path == "quote":
            self.interferes()
            return self.make_quote(self.report_data)
        raise FuseError(errno.EACCES)

    def write(self, path: str, content: bytes) -> None:
        """Take report data of at most 64 bytes; zeros follow."""
        if path != "user_report_data":
            raise FuseError(errno.EACCES)
        if len(content) > 64:
            raise FuseError(errno.EINVAL)
        self.report_data = content.ljust(64, b"\0")


@dataclass
class OcclumDevice:
    """``/dev/sgx`` in an Occlum enclave.

    Args:
        make_quote: the hardware.
        dcap: what the detection says.
        room: how long quotes may be, as the size request says.
        requests: the number and the structure of each request, as they came.
        fails: the error number that making a quote ends with.
    """

    make_quote: MakeQuote
    dcap: int = 1
    room: int = 8192
    requests: list[tuple[int, bytes]] = field(default_factory=list)
    fails: int = 0

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Carry out one of the three requests."""
        self.requests.append((request, bytes(argument)))
        if request == 0x80047306:
            argument[:] = struct.pack("<I", self.dcap)
        elif request == 0x80047307:
            argument[:] = struct.pack("<I", self.room)
        elif request == 0xC0187308:
            if self.fails:
                raise OSError(self.fails, "refused")
            report_data, length, buffer = struct.unpack("<QQQ", argument)
            quote = self.make_quote(ctypes.string_at(report_data, 64))
            if len(quote) > int.from_bytes(ctypes.string_at(length, 4), "little"):
                raise OSError(errno.ENOSPC, "no room")
            ctypes.memmove(length, struct.pack("<I", len(quote)), 4)
            ctypes.memmove(buffer, quote, len(quote))
        else:
            raise OSError(errno.ENOTTY, "no such request")
