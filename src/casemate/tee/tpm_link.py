"""Ways to a TPM: a device node, or the socket of a software TPM."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Protocol, Self

from casemate.tee.faults import BUSY, absent, failed

NAME = "tpm"
DEVICES = (Path("/dev/tpmrm0"), Path("/dev/tpm0"))
"""The first shares the TPM with others and cleans up behind us; the second is one's alone."""

_ROOM = 8192
_SECONDS = 60.0
_WAIT_SECONDS = 5.0
_PAUSE = 0.01
_HEADER = 10


class Link(Protocol):
    """A connection to a TPM."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def send(self, command: bytes) -> bytes:
        """Send a command, return the response.

        Raises:
            UsageError, UnavailableError: ``tee.*``.
        """
        ...


def tpm_address(place: str | None, *, tee: str = NAME) -> str:
    """Where the TPM is: the place itself, or the first device node that is there.

    Args:
        place: a node, a unix socket, ``HOST:PORT``, or None for the kernel's own nodes.
        tee: as ``--tee`` names it, for errors.

    Raises:
        UsageError: ``tee.absent``.
    """
    if place is not None:
        if _host_and_port(place) is None and not Path(place).exists():
            raise absent(tee, f"no {place}")
        return place
    for device in DEVICES:
        if device.exists():
            return str(device)
    raise absent(tee, f"no {' or '.join(map(str, DEVICES))}")


def open_tpm(address: str, *, tee: str = NAME) -> Link:
    """Open what `tpm_address` found; some have room for one at a time, so wait for a while.

    Raises:
        UsageError: ``tee.forbidden``, ``tee.absent``.
        UnavailableError: ``tee.busy`` and the like.
    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            return _open(tee, address)
        except OSError as error:
            if error.errno not in BUSY or time.monotonic() > deadline:
                raise failed(tee, f"opening {address}", error) from error
        time.sleep(_PAUSE)


def _open(tee: str, address: str) -> Link:
    path = Path(address)
    if path.is_socket():
        return _Socket(tee, socket.AF_UNIX, address)
    if (network := _host_and_port(address)) is not None and not path.exists():
        return _Socket(tee, socket.AF_INET, network)
    return _Node(tee, path)


def _host_and_port(place: str) -> tuple[str, int] | None:
    host, colon, port = place.rpartition(":")
    if not colon or not host or "/" in place or not port.isdecimal():
        return None
    return host, int(port)


class _Node:
    def __init__(self, tee: str, path: Path) -> None:
        self._tee = tee
        self._descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def send(self, command: bytes) -> bytes:
        try:
            os.write(self._descriptor, command)
            return os.read(self._descriptor, _ROOM)
        except OSError as error:
            raise failed(self._tee, "sending a command", error) from error


class _Socket:
    """A software TPM's socket: commands and responses as they are, one client at a time."""

    def __init__(self, tee: str, family: int, address: str | tuple[str, int]) -> None:
        self._tee = tee
        self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.settimeout(_SECONDS)
            self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, command: bytes) -> bytes:
        try:
            self._socket.sendall(command)
            head = self._receive(_HEADER)
            size = int.from_bytes(head[2:6], "big")
            return head + self._receive(min(max(size, _HEADER), _ROOM) - _HEADER)
        except OSError as error:
            raise failed(self._tee, "sending a command", error) from error

    def _receive(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = self._socket.recv(length - len(data))
            if not part:
                raise ConnectionResetError("the TPM hung up")
            data += part
        return data
