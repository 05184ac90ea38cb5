"""The payload: one deterministic PAX tar archive, any part of which can be made on its own.

Sizes are known before content is read, so every byte's place is too. That lets two threads fill
chunks independently, in two passes, in bounded memory.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from casemate.errors import UsageError
from casemate.image.format import CHUNK_SIZE, TocEntry
from casemate.image.tree import EntryKind, FilePart, TreeEntry

_BLOCK = 512
_TYPES = {
    EntryKind.FILE: b"0",
    EntryKind.HARDLINK: b"1",
    EntryKind.SYMLINK: b"2",
    EntryKind.DIRECTORY: b"5",
}
_MAX_ID = 0o7777777
_MAX_SIZE = 0o77777777777
_ALIGNED_FROM = 1 << 20  # of large files, each chunk holds nothing but content


def tar_header(entry: TreeEntry, position: int) -> bytes:
    """The tar blocks before an entry's content: a PAX header where ustar's fields don't suffice.

    Args:
        entry: the entry.
        position: where in the payload the blocks begin; a large file's are padded from there, so
            that its content begins with a chunk.

    Source: specs/sealed-image.md, "Payload"; POSIX.1-2017, pax, "ustar" and "pax" formats.
    """
    path = entry.path + ("/" if entry.kind is EntryKind.DIRECTORY else "")
    records = {
        b"SCHILY.xattr." + name.encode(): value for name, value in entry.xattrs
    }  # the one form of extended attributes that GNU tar, bsdtar and container tools read
    for name, text in ((b"path", path), (b"linkpath", entry.target)):
        if len(text.encode()) > 100 or not text.isascii():
            records[name] = text.encode()
    for name, number, most in (
        (b"uid", entry.uid, _MAX_ID),
        (b"gid", entry.gid, _MAX_ID),
        (b"size", entry.size, _MAX_SIZE),
    ):
        if number > most:
            records[name] = str(number).encode()
    extension = _extension(records)
    if entry.size >= _ALIGNED_FROM and (position + len(_extended(extension)) + _BLOCK) % CHUNK_SIZE:
        records[b"comment"] = _filler(len(extension), position)
        extension = _extension(records)
    blocks = _extended(extension)
    return blocks + _ustar(
        b"@" if b"path" in records else path.encode(),
        entry.mode,
        0 if b"uid" in records else entry.uid,
        0 if b"gid" in records else entry.gid,
        0 if b"size" in records else entry.size,
        entry.mtime,
        _TYPES[entry.kind],
        b"@" if b"linkpath" in records else entry.target.encode(),
    )


def _extension(records: dict[bytes, bytes]) -> bytes:
    return b"".join(_pax_record(name, records[name]) for name in sorted(records))


def _extended(extension: bytes) -> bytes:
    """The member that holds PAX records, or nothing where there are none."""
    if not extension:
        return b""
    head = _ustar(b"@pax", 0o644, 0, 0, len(extension), 0, b"x", b"")
    return head + extension + bytes(-len(extension) % _BLOCK)


def _filler(used: int, position: int) -> bytes:
    """The value of a comment with which the header at ``position`` ends at a chunk's border.

    Args:
        used: bytes that the other records have.
        position: of the header, in bytes.
    """
    least = used + len(_pax_record(b"comment", b""))
    size = least + -(position + 2 * _BLOCK + least) % CHUNK_SIZE
    length = size - used
    return b" " * (length - len(_pax_record(b"comment", b"")) + 2 - len(str(length)))


def _pax_record(name: bytes, value: bytes) -> bytes:
    rest = b" " + name + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(str(length)) + len(rest) != length:  # the length counts its own digits
        length = len(str(length)) + len(rest)
    return str(length).encode() + rest


def _ustar(
    name: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, kind: bytes, link: bytes
) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(100, b"\0"), mode, uid, gid, size, mtime,
    )  # fmt: skip
    tail = kind + link.ljust(100, b"\0") + b"ustar\x0000" + bytes(64)
    tail += b"0000000\x000000000\0" + bytes(167)
    checksum = sum(head) + sum(tail) + 8 * ord(" ")
    return head + b"%06o\0 " % checksum + tail


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything lies in a payload.

    Args:
        entries: the tree, normalised.
        starts: where each entry's tar header begins, in bytes.
        contents: where each entry's content begins.
        size: of the whole payload, with the archive's end mark.
    """

    entries: tuple[TreeEntry, ...]
    starts: tuple[int, ...]
    contents: tuple[int, ...]
    size: int

    def toc(self) -> tuple[TocEntry, ...]:
        """The table of contents that goes with the payload."""
        return tuple(
            TocEntry(
                entry.path, entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime,
                content if entry.kind is EntryKind.FILE else 0,
                entry.size, entry.target, entry.xattrs,
            )
            for entry, content in zip(self.entries, self.contents, strict=True)
        )  # fmt: skip


def lay_out(entries: tuple[TreeEntry, ...]) -> Layout:
    """Give every entry of a normalised tree its place."""
    starts: list[int] = []
    contents: list[int] = []
    position = 0
    for entry in entries:
        starts.append(position)
        position += len(tar_header(entry, position))
        contents.append(position)
        position += entry.size + -entry.size % _BLOCK
    return Layout(
        entries=entries,
        starts=tuple(starts),
        contents=tuple(contents),
        size=position + 2 * _BLOCK,
    )


class PayloadReader:
    """Fill any range of a payload; one reader a thread. A context manager.

    It keeps a few source files open between calls, and looks at each one's size every time it
    opens it: a file that changed its length meanwhile is an error.
    """

    _MAX_OPEN = 8

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._open: OrderedDict[Path, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill ``buffer`` with the payload's bytes from offset ``start`` on.

        Raises:
            UsageError: ``image.changed-while-sealing``, ``image.tree``.
        """
        layout, end = self._layout, start + len(buffer)
        index = max(bisect_right(layout.starts, start) - 1, 0)
        if layout.entries and layout.contents[index] <= start:
            entry, content = layout.entries[index], layout.contents[index]
            if end <= content + entry.size:  # nothing but a large file's content
                self._content(entry, buffer, start - content)
                return
        buffer[:] = bytes(len(buffer))
        while index < len(layout.entries) and layout.starts[index] < end:
            entry, head, content = (
                layout.entries[index],
                layout.starts[index],
                layout.contents[index],
            )
            if start < content:
                _place(buffer, start, tar_header(entry, head), head)
            first, last = max(start, content), min(end, content + entry.size)
            if first < last:
                piece = buffer[first - start : last - start]
                self._content(entry, piece, first - content)
            index += 1

    def _content(self, entry: TreeEntry, piece: memoryview, offset: int) -> None:
        if isinstance(entry.source, bytes):
            piece[:] = entry.source[offset : offset + len(piece)]
            return
        if entry.source is None:
            raise UsageError(
                "image.tree",
                f"{entry.path} is a file without content",
                field=entry.path,
                expected="a source",
                got="none",
            )
        done = 0
        if isinstance(entry.source, FilePart):
            path, size, offset = entry.source.path, None, entry.source.offset + offset
        else:
            path, size = entry.source, entry.size
        try:
            descriptor = self._descriptor(entry, path, size)
            while done < len(piece):
                count = os.preadv(descriptor, [piece[done:]], offset + done)
                if count == 0:
                    raise changed(entry.path)
                done += count
        except OSError as error:
            raise UsageError(
                "image.tree",
                f"{entry.path} can't be read",
                field=str(entry.source),
                expected="a file that can be read",
                got=str(error),
                remedy="Give the right to read it, or leave it out of the tree.",
            ) from error

    def _descriptor(self, entry: TreeEntry, source: Path, size: int | None) -> int:
        known = self._open.get(source)
        if known is not None:
            return known
        if len(self._open) >= self._MAX_OPEN:
            os.close(self._open.popitem(last=False)[1])
        # O_NONBLOCK: a pipe put in the file's place must not hold us up
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        self._open[source] = descriptor
        if size is not None and os.fstat(descriptor).st_size != size:
            raise changed(entry.path)
        return descriptor


def tree_entry(entry: TocEntry) -> TreeEntry:
    """An image's entry as an entry of a tree, without a source."""
    return TreeEntry(
        path=entry.path,
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        mtime=entry.mtime,
        size=entry.size,
        target=entry.target,
        xattrs=entry.xattrs,
    )


def check_frame(layout: Layout, chunk: memoryview, start: int) -> str | None:
    """Compare what lies between the files' contents in a chunk with what the layout demands.

    Args:
        layout: of the entries in the image's table of contents.
        chunk: some bytes of the payload.
        start: their place in it.

    Returns:
        The path of an entry whose tar header or padding differs, or None where all is well.
    """
    end = start + len(chunk)
    index = max(bisect_right(layout.starts, start) - 1, 0)
    while index < len(layout.entries) and layout.starts[index] < end:
        entry, head, content = layout.entries[index], layout.starts[index], layout.contents[index]
        if start < content and not _matches(chunk, start, tar_header(entry, head), head):
            return entry.path
        if not _matches(chunk, start, bytes(-entry.size % _BLOCK), content + entry.size):
            return entry.path
        index += 1
    if not _matches(chunk, start, bytes(2 * _BLOCK), layout.size - 2 * _BLOCK):
        return "the end of the archive"
    return None


def _matches(chunk: memoryview, start: int, data: bytes, position: int) -> bool:
    first, last = max(start, position), min(start + len(chunk), position + len(data))
    return first >= last or (
        chunk[first - start : last - start] == data[first - position : last - position]
    )


def changed(what: str) -> UsageError:
    """The error for input that isn't what it was a moment ago."""
    return UsageError(
        "image.changed-while-sealing",
        f"{what} changed while it was being sealed",
        field=what,
        expected="the same content in both passes over the tree",
        got="another length or other bytes",
        remedy="Stop whatever writes to the tree, then seal it again.",
    )


def _place(buffer: memoryview, start: int, data: bytes, position: int) -> None:
    first, last = max(start, position), min(start + len(buffer), position + len(data))
    if first < last:
        buffer[first - start : last - start] = data[first - position : last - position]
