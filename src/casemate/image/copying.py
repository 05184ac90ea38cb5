"""Copy a tree into a folder, and only what has changed since the last time.

A file counts as unchanged where size and time are those of its source, as rsync takes it. Where
the source has no time of its own, contents are compared. What is in the folder and not in the
tree stays. Nothing is written through a link that lies in the folder. Bits by which a program gets
its owner's rights, and extended attributes, are left out: the folder is on a machine that may have
other users.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.content import content_pieces
from casemate.image.tree import EntryKind, TreeEntry, normalised

_PIECE = 1 << 20
_MOST = 1 << 30
_RAISED = 0o6000
_THREADS = 2
_MOST_UNDER_WAY = 32
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Action(StrEnum):
    """What is done with an entry."""

    MAKE = "make"
    REPLACE = "replace"
    ADJUST = "adjust"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is done, or would be.

    Args:
        action: what.
        path: in the tree.
        kind: of the entry.
        size: bytes to write.
    """

    action: Action
    path: str
    kind: EntryKind
    size: int


def copy_tree(
    entries: Iterable[TreeEntry], folder: Path, *, dry_run: bool = False
) -> Iterator[Step]:
    """Make a folder hold a tree. Each step is done before it is given, but for modes of folders.

    Owners are set where the caller is root.

    Args:
        entries: the tree.
        folder: where to; made if it isn't there.
        dry_run: tell the steps and take none.

    Raises:
        UsageError: ``image.tree`` for a tree that can't be; ``image.destination`` where the folder
            can't be written.
    """
    ordered = normalised(entries)
    try:
        if dry_run:
            yield from (step for step, _ in _steps(ordered, folder))
            return
        folder.mkdir(parents=True, exist_ok=True)
        yield from _taken(ordered, folder)
    except OSError as error:
        raise UsageError(
            "image.destination",
            f"{folder} can't be written",
            field=str(folder),
            expected="a folder that can be written",
            got=str(error),
        ) from error


def _steps(ordered: Iterable[TreeEntry], folder: Path) -> Iterator[tuple[Step, TreeEntry]]:
    """What is to be done, each found out when what comes before it is done or under way."""
    written: set[str] = set()
    for entry in ordered:
        step = _step(entry, folder, written)
        if step is not None:
            if step.action is not Action.ADJUST:
                written.add(entry.path)
            yield step, entry


def _taken(ordered: Iterable[TreeEntry], folder: Path) -> Iterator[Step]:
    """Take every step. Files are written beside each other, for most of it is the system's work.

    A tree's folders come before what is in them, so whatever else had their names is gone by then;
    they get their modes at the end, as one may forbid writing into it.
    """
    under_way: deque[tuple[Step, Future[None]]] = deque()
    folders: list[TreeEntry] = []
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:
        for step, entry in _steps(ordered, folder):
            if entry.kind is EntryKind.DIRECTORY:
                folders.append(entry)
            elif entry.kind is EntryKind.HARDLINK:
                yield from _finished(under_way, 0)  # its file must be there
            if entry.kind is EntryKind.FILE:
                under_way.append((step, pool.submit(_take, step, entry, folder)))
                yield from _finished(under_way, _MOST_UNDER_WAY)
            else:
                _take(step, entry, folder)
                yield step
        yield from _finished(under_way, 0)
    for entry in reversed(folders):
        _adjust(entry, folder / entry.path)


def _finished(under_way: deque[tuple[Step, Future[None]]], left: int) -> Iterator[Step]:
    while len(under_way) > left:
        step, future = under_way.popleft()
        future.result()
        yield step


def _step(entry: TreeEntry, folder: Path, written: set[str]) -> Step | None:
    place = folder / entry.path
    found = _lstat(place)
    stale = entry.kind is EntryKind.HARDLINK and entry.target in written
    if found is None or stale or not _same_kind(entry, found, place, folder):
        action = Action.MAKE if found is None else Action.REPLACE
    elif entry.kind is EntryKind.FILE and not _same_content(entry, found, place):
        action = Action.REPLACE
    elif _needs_adjusting(entry, found):
        action = Action.ADJUST
    else:
        return None
    size = 0 if action is Action.ADJUST else entry.size
    return Step(action=action, path=entry.path, kind=entry.kind, size=size)


def _lstat(place: Path) -> os.stat_result | None:
    try:
        return place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same_kind(entry: TreeEntry, found: os.stat_result, place: Path, folder: Path) -> bool:
    match entry.kind:
        case EntryKind.DIRECTORY:
            return stat.S_ISDIR(found.st_mode)
        case EntryKind.SYMLINK:
            return stat.S_ISLNK(found.st_mode) and os.readlink(place) == entry.target  # noqa: PTH115
        case EntryKind.HARDLINK:
            other = _lstat(folder / entry.target)
            return other is not None and os.path.samestat(other, found)
        case EntryKind.FILE:
            return stat.S_ISREG(found.st_mode)


def _same_content(entry: TreeEntry, found: os.stat_result, place: Path) -> bool:
    if found.st_size != entry.size:
        return False
    if isinstance(entry.source, Path):
        return found.st_mtime_ns == entry.source.stat().st_mtime_ns
    with place.open("rb") as file:
        ours = iter(lambda: file.read(_PIECE), b"")
        return all(a == b for a, b in zip_longest(ours, content_pieces(entry)))


def _needs_adjusting(entry: TreeEntry, found: os.stat_result) -> bool:
    if entry.kind in (EntryKind.SYMLINK, EntryKind.HARDLINK):
        return False
    owner = (found.st_uid, found.st_gid)
    other_owner = os.geteuid() == 0 and owner != (entry.uid, entry.gid)
    return other_owner or stat.S_IMODE(found.st_mode) != _mode(entry)


def _mode(entry: TreeEntry) -> int:
    return entry.mode & ~_RAISED if entry.kind is EntryKind.FILE else entry.mode


def _take(step: Step, entry: TreeEntry, folder: Path) -> None:
    place = folder / entry.path
    if step.action is Action.REPLACE:
        _remove(place)
    if step.action is Action.ADJUST:
        if entry.kind is EntryKind.FILE:
            _adjust(entry, place)
        return
    match entry.kind:
        case EntryKind.DIRECTORY:
            place.mkdir(mode=0o700)
        case EntryKind.SYMLINK:
            place.symlink_to(entry.target)
        case EntryKind.HARDLINK:
            place.hardlink_to(folder / entry.target)
        case EntryKind.FILE:
            _write(entry, place)


def _adjust(entry: TreeEntry, place: Path | int) -> None:
    """Owner and mode of a file or folder, by its place or open."""
    if os.geteuid() == 0:
        os.chown(place, entry.uid, entry.gid)
    os.chmod(place, _mode(entry))  # noqa: PTH101  also of an open one


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def _write(entry: TreeEntry, place: Path) -> None:
    descriptor = os.open(place, _NEW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as output:
        if not isinstance(entry.source, Path):
            for piece in content_pieces(entry):
                output.write(piece)
            _adjust(entry, descriptor)
            return
        with entry.source.open("rb", buffering=0) as source:
            while os.sendfile(descriptor, source.fileno(), None, _MOST):
                pass
            times = os.fstat(source.fileno())
        _adjust(entry, descriptor)
        os.utime(descriptor, ns=(times.st_atime_ns, times.st_mtime_ns))
