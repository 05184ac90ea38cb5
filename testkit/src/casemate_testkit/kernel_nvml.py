"""NVML, as far as attestation needs it: C functions that fill structures at the addresses they get.

Source: NVIDIA, ``nvml.h``: sizes and order of the structures' fields.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_HANDLE = 0x1234
_INVALID = 2
_NONE = ctypes.CFUNCTYPE(ctypes.c_int)
_ONE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_INDEX = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
_TWO = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class NvmlLibrary:
    """The library, for a machine with one GPU.

    Args:
        make_report: the GPU: a report for a nonce of 32 bytes.
        chain: of the device, PEM.
        starts: the status of starting.
        status: of asking for a report; 3 where the GPU isn't in confidential-computing mode.
        size: how long the report is said to be, if not as long as it is.
    """

    def __init__(
        self,
        make_report: Callable[[bytes], bytes],
        *,
        chain: bytes = b"",
        starts: int = 0,
        status: int = 0,
        size: int | None = None,
    ) -> None:
        self._make_report, self._chain = make_report, chain
        self._status, self._size = status, size
        self._functions: dict[str, Callable[..., int]] = {
            "nvmlInit_v2": _NONE(lambda: starts),
            "nvmlDeviceGetCount_v2": _ONE(self._count),
            "nvmlDeviceGetHandleByIndex_v2": _INDEX(self._handle),
            "nvmlDeviceGetConfComputeGpuAttestationReport": _TWO(self._report),
            "nvmlDeviceGetConfComputeGpuCertificate": _TWO(self._certificate),
        }

    def __getattr__(self, name: str) -> Callable[..., int]:
        """A function by its name, as a loader finds it."""
        if name not in self._functions:
            raise AttributeError(name)
        return self._functions[name]

    def _count(self, count: int) -> int:
        ctypes.memmove(count, (1).to_bytes(4, "little"), 4)
        return 0

    def _handle(self, index: int, handle: int) -> int:
        ctypes.memmove(handle, _HANDLE.to_bytes(8, "little"), 8)
        return 0 if index == 0 else _INVALID

    def _report(self, handle: int, structure: int) -> int:
        if self._status or handle != _HANDLE:
            return self._status or _INVALID
        made = self._make_report(ctypes.string_at(structure + 12, 32))
        size = len(made) if self._size is None else self._size
        ctypes.memmove(structure + 4, size.to_bytes(4, "little"), 4)
        ctypes.memmove(structure + 44, made, len(made))
        return 0

    def _certificate(self, handle: int, structure: int) -> int:
        chain = self._chain + b"\0"
        ctypes.memmove(structure + 4, len(chain).to_bytes(4, "little"), 4)
        ctypes.memmove(structure + 8 + 0x1000, chain, len(chain))
        return 0 if handle == _HANDLE else _INVALID
