"""Device nodes that are spoken to by ioctl(2), or whatever stands in for one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from casemate.tee.faults import absent, failed


class Device(Protocol):
    """What takes ioctl requests."""

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Carry out a request.

        Args:
            request: its number.
            argument: its structure in memory, which the request may change.

        Raises:
            OSError: as the kernel does.
        """
        ...


class DeviceFile:
    """A device node, opened for each request.

    Args:
        tee: as ``--tee`` names it, for errors.
        path: the node.

    Raises:
        UsageError: ``tee.absent``, ``tee.forbidden``.
    """

    def __init__(self, tee: str, path: Path) -> None:
        self._path = path
        if not path.exists():
            raise absent(tee, f"no {path}")
        if path.is_dir():  # as the SGX driver of a bare machine has it
            raise absent(tee, f"{path} is a folder, not a device")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise failed(tee, f"opening {path}", error) from error

    def ioctl(self, request: int, argument: bytearray) -> None:
        """Carry out a request; see `Device`."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(descriptor, request, argument, True)
        finally:
            os.close(descriptor)
