"""The Linux kernel's FUSE protocol, as far as a read-only file system needs it. No I/O.

Layouts of protocol 7.31 and later on 64-bit machines, in the machine's byte order.

Source: Linux, include/uapi/linux/fuse.h (the interface between kernel and file system).
"""

from __future__ import annotations

import errno
import stat
import struct
from enum import IntEnum
from typing import NamedTuple

from casemate.image.nodes import Node

MAX_READ = 1 << 20
IN_HEADER = struct.Struct("=IIQQIIIHH")
OUT_HEADER = struct.Struct("=IiQ")
READ_IN = struct.Struct("=QQIIQII")
GETXATTR_IN = struct.Struct("=II")
INIT_IN = struct.Struct("=IIII")
_MORE_FLAGS = struct.Struct("=I")  # after it, where the kernel says so
_INIT_OUT = struct.Struct("=IIIIHHIIHHIIH22x")
_ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("=QQQQII")
_ATTR_OUT = struct.Struct("=QII")
_DIRENT = struct.Struct("=QQII")
_STATFS = struct.Struct("=QQQQQIII28x")
_GETXATTR_OUT = struct.Struct("=I4x")
_STORE_OUT = struct.Struct("=QQI4x")
_NOTIFY_STORE = 4
_FOREVER = 1 << 30  # seconds: an image never changes, so what was told once holds

_MAJOR, _MINOR, _OLDEST_MINOR = 7, 36, 31
_ASYNC_READ, _NO_OPEN, _READDIRPLUS, _READDIRPLUS_AUTO = 1 << 0, 1 << 17, 1 << 13, 1 << 14
_ASYNC_DIO, _PARALLEL_DIROPS, _MAX_PAGES, _CACHE_SYMLINKS = 1 << 15, 1 << 18, 1 << 22, 1 << 23
_NO_OPENDIR, _EXPLICIT_INVALIDATION, _EXTENDED = 1 << 24, 1 << 25, 1 << 30
_REQUEST_TIMEOUT = 1 << 42 - 32
_WANTED = (
    _ASYNC_READ | _NO_OPEN | _READDIRPLUS | _READDIRPLUS_AUTO | _ASYNC_DIO | _PARALLEL_DIROPS
    | _MAX_PAGES | _CACHE_SYMLINKS | _NO_OPENDIR | _EXPLICIT_INVALIDATION | _EXTENDED
)  # fmt: skip


class Op(IntEnum):
    """Numbers of the requests that are answered, or that must not be."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    READLINK = 5
    OPEN = 14
    READ = 15
    STATFS = 17
    GETXATTR = 22
    LISTXATTR = 23
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    READDIRPLUS = 44


UNANSWERED = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})


class Request(NamedTuple):
    """One request's header."""

    op: int
    unique: int
    node: int


class FuseError(Exception):
    """A request that ends with an ``errno``."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode.get(number, str(number)))
        self.number = number


def parse_request(data: memoryview) -> tuple[Request, memoryview]:
    """A request's header and body."""
    length, op, unique, node, _uid, _gid, _pid, _extension, _ = IN_HEADER.unpack_from(data)
    return Request(op, unique, node), data[IN_HEADER.size : length]


def init_reply(body: memoryview, *, patience: int) -> bytes:
    """Answer the kernel's offer with what this file system wants of it.

    Args:
        body: the offer.
        patience: seconds that a request may take before the kernel ends the mount, if it can.

    Raises:
        FuseError: EPROTO for a kernel whose protocol is older than 7.31 (Linux 5.4).
    """
    major, minor, read_ahead, offered = INIT_IN.unpack_from(body)
    if major != _MAJOR or minor < _OLDEST_MINOR:
        raise FuseError(errno.EPROTO)
    more = _MORE_FLAGS.unpack_from(body, INIT_IN.size)[0] if offered & _EXTENDED else 0
    return _INIT_OUT.pack(
        _MAJOR, _MINOR, max(read_ahead, 4 * MAX_READ), offered & _WANTED,
        64, 48, 4096, 1_000_000_000, MAX_READ // 4096, 0, more & _REQUEST_TIMEOUT, 0, patience,
    )  # fmt: skip


def store_notice(node: int, offset: int, size: int) -> bytes:
    """What goes before bytes that the kernel shall keep, unasked, in its page cache."""
    total = OUT_HEADER.size + _STORE_OUT.size + size
    return OUT_HEADER.pack(total, _NOTIFY_STORE, 0) + _STORE_OUT.pack(node, offset, size)


def attributes(node: Node) -> bytes:
    """A node's attributes."""
    entry = node.entry
    size = 0
    if entry is not None:
        size = len(entry.target.encode()) if entry.target else entry.size
    uid, gid, mtime = (0, 0, 0) if entry is None else (entry.uid, entry.gid, entry.mtime)
    return _ATTR.pack(
        node.number, size, -(-size // 512), mtime, mtime, mtime, 0, 0, 0,
        node.mode, node.links, uid, gid, 0, 4096, 0,
    )  # fmt: skip


def attributes_reply(node: Node) -> bytes:
    """The answer to GETATTR."""
    return _ATTR_OUT.pack(_FOREVER, 0, 0) + attributes(node)


def entry_reply(node: Node | None) -> bytes:
    """The answer to LOOKUP; None tells the kernel to remember that there is no such name."""
    if node is None:
        return _ENTRY.pack(0, 0, _FOREVER, 0, 0, 0) + bytes(_ATTR.size)
    return _ENTRY.pack(node.number, 0, _FOREVER, _FOREVER, 0, 0) + attributes(node)


def directory_reply(
    names: list[tuple[bytes, Node]], offset: int, size: int, *, plus: bool
) -> bytes:
    """The answer to READDIR or READDIRPLUS.

    Args:
        names: the whole directory, ``.`` and ``..`` first.
        offset: how many of them the kernel has already.
        size: bytes that the answer may have.
        plus: give attributes too.
    """
    parts: list[bytes] = []
    room = size
    for position in range(offset, len(names)):
        name, node = names[position]
        kind = stat.S_IFMT(node.mode) >> 12
        item = _DIRENT.pack(node.number, position + 1, len(name), kind) + name
        item += bytes(-len(item) % 8)
        if plus:
            item = entry_reply(None if position < 2 else node) + item
        if len(item) > room:
            break
        room -= len(item)
        parts.append(item)
    return b"".join(parts)


def statfs_reply(size: int, entries: int) -> bytes:
    """The answer to STATFS: a full file system of ``size`` bytes."""
    return _STATFS.pack(-(-size // 4096), 0, 0, entries, 0, 4096, 255, 4096)


def sized_reply(value: bytes, size: int) -> bytes:
    """The answer to GETXATTR or LISTXATTR: the value, or its length where ``size`` is 0.

    Raises:
        FuseError: ERANGE where it doesn't fit.
    """
    if size == 0:
        return _GETXATTR_OUT.pack(len(value))
    if len(value) > size:
        raise FuseError(errno.ERANGE)
    return value
