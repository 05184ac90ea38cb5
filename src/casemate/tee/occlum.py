"""Evidence of an SGX enclave under Occlum, by ioctl on ``/dev/sgx``.

Source: Occlum, ``docs/remote_attestation``, and its ioctl numbers: ``_IOR('s', 6, u32)`` says
whether DCAP is there, ``_IOR('s', 7, u32)`` how long quotes are, ``_IOWR('s', 8, 24 bytes)`` makes
one.
"""

from __future__ import annotations

import ctypes
import struct

from casemate.evidence import Evidence, Tee
from casemate.evidence.quote import MAX_SIZE, parse_quote
from casemate.tee.device import Device
from casemate.tee.faults import absent, failed, unexpected
from casemate.types import ReportData, Sha384

NAME = "sgx-occlum"
DEVICE = "/dev/sgx"
DETECT_DCAP_DRIVER = 0x80047306
GET_DCAP_QUOTE_SIZE = 0x80047307
GEN_DCAP_QUOTE = 0xC0187308
_U32 = struct.Struct("=I")
_GENERATE = struct.Struct("=QQQ")  # addresses of report data, of the length, of the buffer


class OcclumEnclave:
    """An Attester: the enclave, by way of Occlum.

    Args:
        device: ``/dev/sgx``.

    Raises:
        UsageError: ``tee.absent`` where DCAP isn't there.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        try:
            found = self._number(DETECT_DCAP_DRIVER)
        except OSError as error:
            # The SGX driver of a bare machine has a node of that name too, and not this request.
            raise absent(NAME, f"{DEVICE} doesn't answer as Occlum's does") from error
        if found != 1:
            raise absent(NAME, "Occlum finds no DCAP driver")

    def attest(self, report_data: ReportData) -> Evidence:
        """A DCAP quote.

        Raises:
            UnavailableError: ``tee.*``.
        """
        try:
            size = self._number(GET_DCAP_QUOTE_SIZE)
            if not 0 < size <= MAX_SIZE:
                raise unexpected(NAME, "quote size", f"1 to {MAX_SIZE}", str(size))
            bound = (ctypes.c_ubyte * len(report_data)).from_buffer_copy(report_data)
            length, buffer = ctypes.c_uint32(size), (ctypes.c_ubyte * size)()
            addresses = (ctypes.addressof(each) for each in (bound, length, buffer))
            self._device.ioctl(GEN_DCAP_QUOTE, bytearray(_GENERATE.pack(*addresses)))
        except OSError as error:
            raise failed(NAME, "making a quote", error) from error
        if not 0 < length.value <= size:
            raise unexpected(NAME, "quote length", f"1 to {size}", str(length.value))
        quote = parse_quote(bytes(buffer)[: length.value])
        if quote.report.report_data != report_data:
            raise unexpected(NAME, "report data", report_data.hex(), quote.report.report_data.hex())
        return Evidence(tee=Tee.SGX, data=quote.data)

    def extend(self, digest: Sha384) -> str | None:
        """SGX has no register for what runs: the claims say it alone."""
        del digest
        return None

    def _number(self, request: int) -> int:
        argument = bytearray(_U32.size)
        self._device.ioctl(request, argument)
        (value,) = _U32.unpack(argument)
        return int(value)
