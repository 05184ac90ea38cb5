"""The tree that goes into a sealed image: its entries, and where they come from.

A tree is a tuple of :class:`TreeEntry`. It comes from a directory (:func:`tree_from_directory`)
or from a program, such as a bill of materials. :func:`normalised` brings any tree into the one
order and form that is sealed, or says what is wrong with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from casemate.errors import UsageError

MAX_NAME = 255
MAX_PATH = 4095
MODE_BITS = 0o7777
_REPLACE = "Leave it out of the tree, or replace it by a file, a directory or a link."
_RENAME = "Rename it, or leave it out of the tree."
_PERMIT = "Give the right to read it, or leave it out of the tree."


class EntryKind(StrEnum):
    """What an entry of a tree is. Devices, sockets and pipes have no kind: they can't be sealed."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file's content as a part of another file: a member of an archive."""

    path: Path
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """One entry of a tree.

    Args:
        path: where it is in the tree: relative, ``/`` between the parts, no ``.`` or ``..``, no
            leading or trailing slash, UTF-8, at most 4095 bytes with parts of at most 255.
        kind: what it is.
        mode: permission bits, at most 0o7777.
        uid: owner, 0 to 2^32-1.
        gid: group, 0 to 2^32-1.
        mtime: time of last change, whole seconds since 1970.
        size: of a file's content in bytes; 0 for every other kind.
        target: a symbolic link's text, or the path within the tree of the file that a hard link
            shares; empty for every other kind. A hard link's file must sort before it.
        source: where a file's content is: a path on this host, a part of such a file, or the bytes
            themselves. None for every other kind, and for entries that were read from an image.
        xattrs: extended attributes, sorted by name, each name once.
    """

    path: str
    kind: EntryKind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: str = ""
    source: Path | FilePart | bytes | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()


def tree_from_directory(
    path: Path, *, keep_owner: bool = False, mtime: int | None = 0
) -> tuple[TreeEntry, ...]:
    """Read a directory's tree, following nothing, in the order in which it is sealed.

    The directory itself is not an entry. Content isn't read, only its size. Extended attributes
    of files and directories are kept where the file system tells them, except SELinux's label.

    Args:
        path: the directory.
        keep_owner: keep each entry's owner and group; otherwise all belong to root (0, 0).
        mtime: the time that every entry gets, seconds since 1970; None keeps each one's own.

    Raises:
        UsageError: ``image.tree`` for what can't be sealed (sockets, pipes, devices, names that
            aren't UTF-8) or can't be read.
    """
    if not path.is_dir():
        raise _unfit(
            str(path),
            "a directory",
            "something else, or nothing",
            "Name a directory that is there.",
        )
    entries: list[TreeEntry] = []
    first_names: dict[tuple[int, int], str] = {}
    found = sorted(_walk(path), key=lambda item: _sort_key(item[0]))
    for name, item in found:
        entries.append(_entry(name, item, first_names, keep_owner=keep_owner, mtime=mtime))
    return tuple(entries)


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    pending = [(str(root), "")]
    while pending:
        folder, prefix = pending.pop()
        try:
            with os.scandir(folder) as listing:
                for item in listing:
                    name = prefix + item.name
                    check_path(name)
                    yield name, item
                    if item.is_dir(follow_symlinks=False):
                        pending.append((item.path, name + "/"))
        except OSError as error:
            raise _unfit(folder, "a directory that can be read", str(error), _PERMIT) from error


def _entry(
    name: str,
    item: os.DirEntry[str],
    first_names: dict[tuple[int, int], str],
    *,
    keep_owner: bool,
    mtime: int | None,
) -> TreeEntry:
    try:
        info = item.stat(follow_symlinks=False)
        target = os.readlink(item.path) if stat.S_ISLNK(info.st_mode) else ""  # noqa: PTH115
        xattrs = _xattrs(item.path)
    except OSError as error:
        raise _unfit(item.path, "an entry that can be read", str(error), _PERMIT) from error
    kind, size, source = _kind(info.st_mode, item.path), 0, None
    if kind is EntryKind.FILE:
        first = first_names.setdefault((info.st_dev, info.st_ino), name)
        if first != name:
            kind, target, xattrs = EntryKind.HARDLINK, first, ()
        else:
            size, source = info.st_size, Path(item.path)
    return TreeEntry(
        path=name,
        kind=kind,
        mode=0o777 if kind is EntryKind.SYMLINK else stat.S_IMODE(info.st_mode),
        uid=info.st_uid if keep_owner else 0,
        gid=info.st_gid if keep_owner else 0,
        mtime=int(info.st_mtime_ns // 1_000_000_000) if mtime is None else mtime,
        size=size,
        target=target,
        source=source,
        xattrs=xattrs,
    )


def _kind(mode: int, path: str) -> EntryKind:
    if stat.S_ISREG(mode):
        return EntryKind.FILE
    if stat.S_ISDIR(mode):
        return EntryKind.DIRECTORY
    if stat.S_ISLNK(mode):
        return EntryKind.SYMLINK
    what = {
        stat.S_IFSOCK: "a socket",
        stat.S_IFIFO: "a pipe",
        stat.S_IFBLK: "a block device",
        stat.S_IFCHR: "a character device",
    }.get(stat.S_IFMT(mode), "something else")
    raise _unfit(path, "a file, a directory or a link", what)


def _xattrs(path: str) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a file system that has none
        return ()
    return tuple(
        (name, os.getxattr(path, name, follow_symlinks=False))
        for name in sorted(names)
        if name.startswith(("user.", "security.capability"))
    )


def normalised(entries: Iterable[TreeEntry]) -> tuple[TreeEntry, ...]:
    """The tree in the order and form that is sealed: sorted by path, missing parents added.

    Args:
        entries: in any order. A directory that is named only by what lies in it is added, with
            mode 0755, owner root and time 0.

    Raises:
        UsageError: ``image.tree`` naming the first entry that is wrong, and why.
    """
    by_path: dict[str, TreeEntry] = {}
    for entry in entries:
        check_entry(entry)
        if entry.path in by_path:
            raise _unfit(entry.path, "each path once", "the same path twice")
        by_path[entry.path] = entry
    for path in list(by_path):
        parent = path.rpartition("/")[0]
        while parent and parent not in by_path:
            by_path[parent] = TreeEntry(path=parent, kind=EntryKind.DIRECTORY, mode=0o755)
            parent = parent.rpartition("/")[0]
    ordered = tuple(by_path[path] for path in sorted(by_path, key=_sort_key))
    check_structure(ordered)
    return ordered


def check_entry(entry: TreeEntry) -> None:
    """One entry's fields must be within their ranges and fit its kind.

    Raises:
        UsageError: ``image.tree``.
    """
    check_path(entry.path)
    kind, path = entry.kind, entry.path
    if not 0 <= entry.mode <= MODE_BITS:
        raise _unfit(path, "mode 0 to 07777", oct(entry.mode))
    if not (0 <= entry.uid < 1 << 32 and 0 <= entry.gid < 1 << 32):
        raise _unfit(path, "owner and group from 0 to 2^32-1", f"{entry.uid}:{entry.gid}")
    if not 0 <= entry.mtime < 1 << 33:
        raise _unfit(
            path, "a time from 0 to 2^33-1 seconds", str(entry.mtime),
            "Set another time (touch), or do without --keep-times.",
        )  # fmt: skip
    if not 0 <= entry.size < 1 << 62 or (entry.size and kind is not EntryKind.FILE):
        raise _unfit(path, "a size, and only of a file", str(entry.size))
    if isinstance(entry.source, bytes) and len(entry.source) != entry.size:
        raise _unfit(path, f"{entry.size} bytes of content", f"{len(entry.source)}")
    if kind is EntryKind.HARDLINK:
        check_path(entry.target)
    elif kind is EntryKind.SYMLINK:
        _check_text(entry.target, path)
        if not 0 < len(entry.target.encode()) <= MAX_PATH:
            raise _unfit(path, "a link text of 1 to 4095 bytes", f"{len(entry.target)}")
    elif entry.target:
        raise _unfit(path, "no link target", entry.target)
    _check_xattrs(entry)


def _check_xattrs(entry: TreeEntry) -> None:
    names = [name for name, _ in entry.xattrs]
    if names != sorted(set(names)):
        raise _unfit(entry.path, "attributes sorted by name, each once", ", ".join(names))
    if names and entry.kind is EntryKind.HARDLINK:
        raise _unfit(entry.path, "attributes on the file, not its hard link", ", ".join(names))
    for name, value in entry.xattrs:
        _check_text(name, entry.path)
        if not 0 < len(name.encode()) <= MAX_NAME or "=" in name or len(value) > 65536:
            raise _unfit(entry.path, "a name of 1 to 255 bytes without '=', 64 KiB of value", name)


def check_structure(ordered: tuple[TreeEntry, ...]) -> None:
    """A sorted tree must hang together: parents are directories, hard links point at files.

    Raises:
        UsageError: ``image.tree``.
    """
    kinds: dict[str, EntryKind] = {}
    last = b""
    for entry in ordered:
        key = entry.path.encode()
        if key <= last:
            raise _unfit(entry.path, "paths in ascending order of their bytes", "another order")
        last = key
        parent = entry.path.rpartition("/")[0]
        if parent and kinds.get(parent) is not EntryKind.DIRECTORY:
            raise _unfit(entry.path, "a parent that is a directory", kinds.get(parent, "nothing"))
        if entry.kind is EntryKind.HARDLINK and kinds.get(entry.target) is not EntryKind.FILE:
            raise _unfit(entry.path, "a hard link to a file that sorts before it", entry.target)
        kinds[entry.path] = entry.kind


def check_path(path: str) -> None:
    """A path must be relative, plain and within the limits that Linux has.

    Raises:
        UsageError: ``image.tree``.
    """
    _check_text(path, path)
    if len(path.encode()) > MAX_PATH:
        got = str(len(path.encode()))
        raise _unfit(path[:80] + "…", f"at most {MAX_PATH} bytes", got, _RENAME)
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise _unfit(path, "a relative path without empty, '.' or '..' parts", repr(part))
        if len(part.encode()) > MAX_NAME:
            expected = f"names of at most {MAX_NAME} bytes"
            raise _unfit(path[:80] + "…", expected, part[:80] + "…", _RENAME)


def _check_text(text: str, path: str) -> None:
    try:
        if b"\0" in text.encode():
            raise _unfit(ascii(path), "text without NUL", "a NUL", _RENAME)
    except UnicodeEncodeError as error:
        raise _unfit(ascii(path), "a name in UTF-8", "other bytes", _RENAME) from error


def _sort_key(path: str) -> bytes:
    return path.encode()


def _unfit(path: str, expected: str, got: str, remedy: str = _REPLACE) -> UsageError:
    return UsageError(
        "image.tree",
        f"{path} can't be sealed",
        field=path,
        expected=expected,
        got=got,
        remedy=remedy,
    )
