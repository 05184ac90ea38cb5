"""Files as a kernel makes them: every open, read, write and close is somebody's to answer.

A small FUSE server for stand-ins of sysfs, configfs and Gramine's pseudo-files. It speaks the
kernel's own protocol, so that a driver's system calls are the real ones.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from casemate.image import fuse_wire as wire
from casemate.image.fuse import fuse_available
from casemate.image.fuse_wire import FuseError

__all__ = ["FuseError", "PseudoFiles", "PseudoMount", "fuse_available"]

_ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ANSWER = struct.Struct("=QII")
_INIT = struct.Struct("=IIIIHHIIHHIIH22x")
_IO = struct.Struct("=QQIIQII")
_DIRENT = struct.Struct("=QQII")
_DIRECT_IO = 1  # the page cache keeps nothing: each read asks again
_ROOM = 1 << 17
_SILENT = {2, 36, 42}
_SETATTR, _MKDIR, _RMDIR, _WRITE, _RELEASE, _FLUSH = 4, 9, 11, 16, 18, 25


class PseudoFiles:
    """What answers. Paths are relative, ``""`` is the root; a refusal is a `FuseError`."""

    def entries(self, path: str) -> dict[str, bool] | None:
        """The names in a folder, each with whether it is one too; None where it is no folder."""
        raise NotImplementedError(path)

    def make(self, path: str) -> None:
        """Make a folder."""
        raise FuseError(errno.EPERM if path else errno.EEXIST)

    def remove(self, path: str) -> None:
        """Remove a folder."""
        raise FuseError(errno.EPERM if path else errno.EBUSY)

    def read(self, path: str) -> bytes:
        """A file's content: asked for once an opening, at the first read."""
        raise NotImplementedError(path)

    def write(self, path: str, content: bytes) -> None:
        """Take a write: what was written since the opening, this call's bytes last."""
        raise NotImplementedError(path, content)

    def close(self, path: str, content: bytes) -> None:
        """Take note that a file that was written to is closed."""


@dataclass
class _Handle:
    path: str
    content: bytes | None = None
    written: bytearray = field(default_factory=bytearray)


class PseudoMount:
    """Pseudo-files, mounted while the block runs.

    Args:
        files: what answers, from one thread.
        mountpoint: an empty folder.
    """

    def __init__(self, files: PseudoFiles, mountpoint: Path) -> None:
        self._files, self._mountpoint = files, mountpoint
        self._numbers = {"": 1}
        self._paths = {1: ""}
        self._handles: dict[int, _Handle] = {}

    def __enter__(self) -> Self:
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._device},rootmode=40000,user_id={os.geteuid()},"
        options += f"group_id={os.getegid()},default_permissions"
        libc = ctypes.CDLL(None, use_errno=True)
        target = os.fsencode(self._mountpoint)
        if libc.mount(b"stand-in", target, b"fuse", ctypes.c_ulong(6), options.encode()):
            os.close(self._device)
            raise OSError(ctypes.get_errno(), "mount")
        self._thread = threading.Thread(target=self._serve, name="stand-in", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        ctypes.CDLL(None).umount2(os.fsencode(self._mountpoint), 3)
        self._thread.join(10)
        os.close(self._device)

    def _serve(self) -> None:
        while True:
            try:
                data = memoryview(os.read(self._device, _ROOM))
            except OSError as error:
                if error.errno in (errno.EINTR, errno.EAGAIN, errno.ENOENT):
                    continue
                return  # unmounted
            request, body = wire.parse_request(data)
            if request.op in _SILENT:
                continue
            number, answer = 0, b""
            try:
                answer = self._answer(request, bytes(body))
            except FuseError as refusal:
                number = refusal.number
            head = wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(answer), -number, request.unique)
            try:
                os.write(self._device, head + answer)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED):
                    raise  # those three: whoever asked has gone

    def _answer(self, request: wire.Request, body: bytes) -> bytes:
        if request.op == wire.Op.INIT:
            return _INIT.pack(7, 31, 0, 0, 16, 12, 4096, 1, 16, 0, 0, 0, 0)
        if request.op == wire.Op.STATFS:
            return wire.statfs_reply(0, 0)
        path = self._paths.get(request.node)
        if path is None:
            raise FuseError(errno.ESTALE)
        op = request.op
        if op == wire.Op.LOOKUP:
            return self._entry(_below(path, body))
        if op in (wire.Op.GETATTR, _SETATTR):
            return _ANSWER.pack(0, 0, 0) + self._attributes(path)
        if op == _MKDIR:
            new = _below(path, body[8:])
            self._files.make(new)
            return self._entry(new)
        if op == _RMDIR:
            self._files.remove(_below(path, body))
            return b""
        if op == wire.Op.OPEN:
            handle = max(self._handles, default=0) + 1
            self._handles[handle] = _Handle(path)
            return struct.pack("=QII", handle, _DIRECT_IO, 0)
        if op == wire.Op.READDIR:
            return self._listing(path, body)
        if op in (wire.Op.READ, _WRITE, _RELEASE, _FLUSH):
            return self._file(op, body)
        raise FuseError(errno.ENOSYS)

    def _file(self, op: int, body: bytes) -> bytes:
        number, offset, size, *_ = _IO.unpack_from(body.ljust(_IO.size, b"\0"))
        handle = self._handles[number]
        if op == wire.Op.READ:
            if handle.content is None:
                handle.content = self._files.read(handle.path)
            return handle.content[offset : offset + size]
        if op == _WRITE:
            data = body[_IO.size : _IO.size + size]
            handle.written[offset : offset + size] = data
            self._files.write(handle.path, bytes(handle.written))
            return struct.pack("=II", len(data), 0)
        if op == _FLUSH:  # close(2) waits for this one, and not for the release
            written, handle.written = bytes(handle.written), bytearray()
            if written:
                self._files.close(handle.path, written)
            return b""
        del self._handles[number]
        return b""

    def _entry(self, path: str) -> bytes:
        folder, _, name = path.rpartition("/")
        if name not in (self._files.entries(folder) or {}):
            raise FuseError(errno.ENOENT)
        if path not in self._numbers:
            number = len(self._numbers) + 1
            self._numbers[path], self._paths[number] = number, path
        return _ENTRY.pack(self._numbers[path], 0, 0, 0, 0, 0) + self._attributes(path)

    def _attributes(self, path: str) -> bytes:
        folder = self._files.entries(path) is not None
        mode = stat.S_IFDIR | 0o755 if folder else stat.S_IFREG | 0o644
        return _ATTRIBUTES.pack(
            self._numbers[path], 4096, 0, 0, 0, 0, 0, 0, 0,
            mode, 2 if folder else 1, os.geteuid(), os.getegid(), 0, 4096, 0,
        )  # fmt: skip

    def _listing(self, path: str, body: bytes) -> bytes:
        _, offset, size, *_ = _IO.unpack_from(body)
        names = list((self._files.entries(path) or {}).items())
        parts = b""
        for position in range(offset, len(names)):
            name, folder = names[position]
            kind = (stat.S_IFDIR if folder else stat.S_IFREG) >> 12
            item = _DIRENT.pack(position + 2, position + 1, len(name), kind) + name.encode()
            item += bytes(-len(item) % 8)
            if len(parts) + len(item) > size:
                break
            parts += item
        return parts


def _below(folder: str, body: bytes) -> str:
    name = body.split(b"\0", 1)[0].decode()
    return f"{folder}/{name}".lstrip("/")
