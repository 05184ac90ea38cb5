"""Evidence of NVIDIA GPUs, by NVML: the driver's own library, loaded when it is asked for.

A GPU answers anybody's nonce. Its evidence opens no channel; it stands beside a CPU's.

Source: NVIDIA, "NVML API Reference", nvmlDeviceGetConfComputeGpuAttestationReport and
nvmlDeviceGetConfComputeGpuCertificate; ``nvml.h`` for the structures.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Protocol

from casemate.errors import UnavailableError, UsageError
from casemate.evidence import Evidence, Tee
from casemate.tee.faults import absent, unexpected
from casemate.types import ReportData

NAME = "nvidia"
LIBRARY = "libnvidia-ml.so.1"
NONCE_SIZE = 32
_UINT, _BYTE = ctypes.c_uint, ctypes.c_ubyte
_REASONS = {
    1: "NVML isn't initialised", 2: "an invalid argument", 3: "not supported: is the GPU in "
    "confidential-computing mode?", 4: "no permission", 9: "the driver isn't loaded",
    10: "timeout", 15: "the GPU fell off the bus", 999: "an unknown error",
}  # fmt: skip
_NO_PERMISSION = 4


class AttestationReport(ctypes.Structure):
    """``nvmlConfComputeGpuAttestationReport_t``."""

    _fields_ = (
        ("isCecAttestationReportPresent", _UINT),
        ("attestationReportSize", _UINT),
        ("cecAttestationReportSize", _UINT),
        ("nonce", _BYTE * NONCE_SIZE),
        ("attestationReport", _BYTE * 0x2000),
        ("cecAttestationReport", _BYTE * 0x1000),
    )


class GpuCertificate(ctypes.Structure):
    """``nvmlConfComputeGpuCertificate_t``."""

    _fields_ = (
        ("certChainSize", _UINT),
        ("attestationCertChainSize", _UINT),
        ("certChain", _BYTE * 0x1000),
        ("attestationCertChain", _BYTE * 0x1400),
    )


class Library(Protocol):
    """NVML: functions by name, each of which returns its status."""

    def __getattr__(self, name: str, /) -> Callable[..., int]: ...


class NvidiaGpu:
    """One GPU of this machine.

    Args:
        index: its number, from 0.
        library: NVML, or its file.

    Raises:
        UsageError: ``tee.absent`` without driver or GPU; ``tee.forbidden``.
    """

    def __init__(self, index: int = 0, library: str | Library = LIBRARY) -> None:
        self._library = _load(library) if isinstance(library, str) else library
        self._index = index
        status = self._library.nvmlInit_v2()
        if status:
            raise absent(NAME, f"NVML can't start: {_reason(status)}")
        self._handle = ctypes.c_void_p()
        status = self._library.nvmlDeviceGetHandleByIndex_v2(
            _UINT(index), ctypes.byref(self._handle)
        )
        if status:
            raise absent(NAME, f"no GPU {index}: {_reason(status)}")

    @property
    def count(self) -> int:
        """How many GPUs this machine shows."""
        number = _UINT()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(number))
        return number.value

    def attest(self, report_data: ReportData) -> Evidence:
        """A report whose nonce is the first half of ``report_data``, with the device's chain.

        Raises:
            UsageError: ``tee.report-data`` where the second half isn't zero, and would be lost.
            UnavailableError: ``tee.failed``, ``tee.unexpected``.
        """
        nonce, rest = report_data[:NONCE_SIZE], report_data[NONCE_SIZE:]
        if any(rest):
            raise UsageError(
                "tee.report-data", "a GPU binds 32 bytes alone", field="report data",
                expected="32 zeros at the end", got=rest.hex(),
            )  # fmt: skip
        report, certificate = AttestationReport(), GpuCertificate()
        report.nonce = (_BYTE * NONCE_SIZE)(*nonce)
        self._call(
            "nvmlDeviceGetConfComputeGpuAttestationReport", self._handle, ctypes.byref(report)
        )
        self._call(
            "nvmlDeviceGetConfComputeGpuCertificate", self._handle, ctypes.byref(certificate)
        )
        data = _cut(report.attestationReport, report.attestationReportSize, "report")
        chain = _cut(
            certificate.attestationCertChain, certificate.attestationCertChainSize, "chain"
        )
        return Evidence(tee=Tee.NVIDIA, data=data, endorsements=(chain.rstrip(b"\0"),))

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status == _NO_PERMISSION:
            raise UsageError(
                "tee.forbidden", "this process may not ask the GPU", field=function,
                remedy="Run as a user who may open /dev/nvidiactl.",
            )  # fmt: skip
        if status:
            raise UnavailableError(
                "tee.failed", f"GPU {self._index} gave no evidence", field=function,
                got=_reason(status), remedy="Look at nvidia-smi conf-compute -q.",
            )  # fmt: skip


def every_gpu(library: str | Library = LIBRARY) -> tuple[NvidiaGpu, ...]:
    """Every GPU that the machine shows: at least one.

    Raises:
        UsageError: ``tee.absent`` where it shows none.
    """
    first = NvidiaGpu(library=library)
    return (first, *(NvidiaGpu(index, library) for index in range(1, first.count)))


def _load(name: str) -> Library:
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise absent(NAME, f"no {name}") from error


def _cut(buffer: ctypes.Array[ctypes.c_ubyte], size: int, field: str) -> bytes:
    if not 0 < size <= len(buffer):
        raise unexpected(NAME, f"{field} size", f"1 to {len(buffer)}", str(size))
    return bytes(buffer)[:size]


def _reason(status: int) -> str:
    return _REASONS.get(status, f"NVML's status {status}")
