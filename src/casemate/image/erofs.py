"""An image's tree as a device with an EROFS file system on it, which the kernel reads by itself.

Nothing of it is stored: superblock, inodes and directories are computed from the table of contents,
and the files' content lies behind them, each at the start of a block, wherever it is in the image.
No I/O.

Source: Linux, fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst (uncompressed data, no
optional features).
"""

from __future__ import annotations

import stat
import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from casemate.image.format import TocEntry
from casemate.image.nodes import ROOT, Node, Nodes
from casemate.image.tree import EntryKind

BLOCK = 4096
_MAGIC = 0xE0F5E1E2
_SUPER_START = 1024
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQ24x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_DIRENT = struct.Struct("<QHBx")
_XATTR_HEADER = bytes(12)
_XATTR = struct.Struct("<BBH")
_SLOT = 32  # inodes are numbered by such
_EXTENDED, _PLAIN, _INLINE = 1, 0 << 1, 2 << 1
_FILE_TYPES = {stat.S_IFREG: 1, stat.S_IFDIR: 2, stat.S_IFLNK: 7}
_PREFIXES = {"user.": 1, "trusted.": 4, "security.": 6}
_MOST_XATTRS = 12 + 4 * (0xFFFF - 1)
_MOST_BLOCKS = 1 << 32


class Span(NamedTuple):
    """Where on the device a file's content is: ``entry.size`` bytes from ``start`` on."""

    start: int
    entry: TocEntry


class Device:
    """The device: what is computed, then the files' content; zeros wherever nothing is.

    Args:
        computed: its first bytes, whole blocks.
        spans: the files, in the order in which they lie behind that.
    """

    def __init__(self, computed: bytes, spans: Sequence[Span]) -> None:
        self.computed = computed
        self._spans = spans
        self._starts = [span.start for span in spans]
        end = spans[-1].start + _padded(spans[-1].entry.size) if spans else 0
        self.size = max(len(computed), end)

    def files(self, start: int, end: int) -> Iterator[Span]:
        """The files whose content lies between two places of the device, in its order."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        for number in range(at, len(self._spans)):  # a slice would be a copy for each read
            span = self._spans[number]
            if span.start >= end:
                return
            if span.start + span.entry.size > start:
                yield span


_Listing: TypeAlias = list[list[bytes]]  # a directory's names, sorted, by the block they are in


class _Plan:
    """A node's place among the inodes, and what comes right behind its inode."""

    def __init__(self, node: Node, data: int, xattrs: bytes, listing: _Listing) -> None:
        self.node = node
        self.data = data  # bytes, also of a file
        self.listing = listing
        self.xattrs = xattrs
        self.head = _INODE.size + len(xattrs)
        self.inline = not stat.S_ISREG(node.mode) and self.head + data <= BLOCK
        self.at = 0  # from the first inode on, in bytes
        self.block = 0  # of its data, where that isn't inline

    @property
    def size(self) -> int:
        return self.head + (self.data if self.inline else 0)


def why_not(entries: Sequence[TocEntry]) -> str | None:
    """Why a tree can't be shown as EROFS, or None.

    It has attributes in ``user.``, ``trusted.`` and ``security.`` only, and sizes below 8 TiB.
    """
    for entry in entries:
        if any(_prefix(name) is None for name, _ in entry.xattrs):
            return f"{entry.path} has extended attributes that EROFS has no number for"
        if len(_xattrs(entry)) > _MOST_XATTRS:
            return f"{entry.path} has too many extended attributes"
    if sum(_padded(entry.size) for entry in entries) // BLOCK >= _MOST_BLOCKS // 2:
        return "it is larger than EROFS's numbers of blocks allow"
    return None


def erofs_device(nodes: Nodes) -> Device:
    """Lay a tree out as an EROFS device. The tree must be one that :func:`why_not` allows."""
    plans = {number: _plan(node, nodes) for number, node in nodes.nodes.items()}
    # 1. The inodes, behind the superblock's block, none across a block's end without need.
    at = 0
    for plan in plans.values():
        if at % BLOCK + min(plan.size, BLOCK) > BLOCK:
            at += -at % BLOCK
        plan.at = at
        at += plan.size
        at += -at % _SLOT
    # 2. What doesn't fit behind an inode, then the files.
    block = 1 + -(-at // BLOCK)
    outside, spans = [], []
    for plan in plans.values():
        if not plan.inline and not stat.S_ISREG(plan.node.mode):
            plan.block = block
            block += _padded(plan.data) // BLOCK
            outside.append(plan)
    computed = bytearray(block * BLOCK)
    for plan in plans.values():
        if plan.node.entry is not None and stat.S_ISREG(plan.node.mode) and plan.data:
            plan.block = block
            spans.append(Span(block * BLOCK, plan.node.entry))
            block += _padded(plan.data) // BLOCK
    # 3. Their bytes.
    numbers = {number: plan.at // _SLOT for number, plan in plans.items()}
    _SUPER.pack_into(
        computed, _SUPER_START, _MAGIC, 0, 0, BLOCK.bit_length() - 1, 0, numbers[ROOT], len(plans),
        0, 0, block, 1, 0, b"", b"", 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    for position, plan in enumerate(plans.values(), 1):
        start = BLOCK + plan.at
        head = _inode(plan, position)
        if plan.inline:
            head += _data(plan, nodes, numbers)
        computed[start : start + len(head)] = head
    for plan in outside:
        data = _data(plan, nodes, numbers)
        computed[plan.block * BLOCK : plan.block * BLOCK + len(data)] = data
    return Device(bytes(computed), spans)


def _plan(node: Node, nodes: Nodes) -> _Plan:
    listing: _Listing = []
    if stat.S_ISDIR(node.mode):
        listing = _listing(sorted(_names(node, nodes)))
        last = sum(_DIRENT.size + len(name) for name in listing[-1])
        size = BLOCK * (len(listing) - 1) + last
    elif node.entry is None or node.entry.kind is EntryKind.FILE:
        size = 0 if node.entry is None else node.entry.size
    else:
        size = len(node.entry.target.encode())
    return _Plan(node, size, b"" if node.entry is None else _xattrs(node.entry), listing)


def _inode(plan: _Plan, position: int) -> bytes:
    entry = plan.node.entry
    uid, gid, mtime = (0, 0, 0) if entry is None else (entry.uid, entry.gid, entry.mtime)
    words = (len(plan.xattrs) - len(_XATTR_HEADER)) // 4 + 1 if plan.xattrs else 0
    layout = _EXTENDED | (_INLINE if plan.inline else _PLAIN)
    return _INODE.pack(
        layout, words, plan.node.mode, 0, plan.data, plan.block, position, uid, gid, mtime,
        0, plan.node.links,
    ) + plan.xattrs  # fmt: skip


def _data(plan: _Plan, nodes: Nodes, numbers: dict[int, int]) -> bytes:
    node = plan.node
    if node.entry is not None and node.entry.kind is EntryKind.SYMLINK:
        return node.entry.target.encode()
    names, data = _names(node, nodes), bytearray()
    for block in plan.listing:
        data += bytes(-len(data) % BLOCK)
        at = _DIRENT.size * len(block)
        for name in block:
            child = names[name]
            kind = _FILE_TYPES[stat.S_IFMT(nodes.nodes[child].mode)]
            data += _DIRENT.pack(numbers[child], at, kind)
            at += len(name)
        data += b"".join(block)
    return bytes(data)


def _names(node: Node, nodes: Nodes) -> dict[bytes, int]:
    return {b".": node.number, b"..": node.parent, **nodes.names[node.number]}


def _listing(names: Sequence[bytes]) -> _Listing:
    blocks: _Listing = []
    room = 0
    for name in names:
        needed = _DIRENT.size + len(name)
        if needed > room:
            blocks.append([])
            room = BLOCK
        blocks[-1].append(name)
        room -= needed
    return blocks


def _xattrs(entry: TocEntry) -> bytes:
    if not entry.xattrs:
        return b""
    parts = bytearray(_XATTR_HEADER)
    for name, value in entry.xattrs:
        prefix = _prefix(name) or ""
        suffix = name[len(prefix) :].encode()
        parts += _XATTR.pack(len(suffix), _PREFIXES.get(prefix, 0), len(value)) + suffix + value
        parts += bytes(-len(parts) % 4)
    return bytes(parts)


def _prefix(name: str) -> str | None:
    return next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)


def _padded(size: int) -> int:
    return size + -size % BLOCK
