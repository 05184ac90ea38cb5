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
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.content import content_pieces
from casemate.image.tree import EntryKind, FilePart, TreeEntry, normalised
from casemate.image.workers import Meter, Progress
from casemate.image.writing import write_all

_PIECE = 1 << 20
_LARGE = 64 << 20  # is copied by one call, and then told of
_RAISED = 0o6000
_THREADS = 2
# A thread is given so many files at once, or so many bytes; and so many such are under way.
_FILES_AT_ONCE = 32
_BYTES_AT_ONCE = 4 << 20
_MOST_UNDER_WAY = 16
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
    entries: Iterable[TreeEntry],
    folder: Path,
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Iterator[Step]:
    """Make a folder hold a tree. Each step is done before it is given, but for modes of folders.

    Owners are set where the caller is root.

    Args:
        entries: the tree.
        folder: where to; made if it isn't there.
        dry_run: tell the steps and take none.
        progress: called with (bytes done, bytes to do); what is there already counts as done.

    Raises:
        UsageError: ``image.tree`` for a tree that can't be; ``image.destination`` where the folder
            can't be written.
    """
    ordered = normalised(entries)
    meter = Meter(sum(entry.size for entry in ordered), progress)
    try:
        if dry_run:
            yield from (step for step, _ in _steps(ordered, folder, meter))
            return
        folder.mkdir(parents=True, exist_ok=True)
        yield from _taken(ordered, folder, meter)
    except OSError as error:
        raise UsageError(
            "image.destination",
            f"{folder} can't be written",
            field=str(folder),
            expected="a folder that can be written",
            got=str(error),
        ) from error


def _steps(
    ordered: Iterable[TreeEntry], folder: Path, meter: Meter
) -> Iterator[tuple[Step, TreeEntry]]:
    """What is to be done, each found out when what comes before it is done or under way."""
    written: set[str] = set()
    fresh: set[str] = set()  # folders with nothing in them, or that will be
    for entry in ordered:
        if entry.path.rpartition("/")[0] in fresh:
            step: Step | None = _made(entry, Action.MAKE)
        else:
            step = _step(entry, folder, written)
        if step is None or (entry.size and not step.size):
            meter.add(entry.size)
        if step is None:
            continue
        if step.action is not Action.ADJUST:
            written.add(entry.path)
            if entry.kind is EntryKind.DIRECTORY:
                fresh.add(entry.path)
        yield step, entry


@dataclass(slots=True)
class _Batch:
    """Steps in a row, and the files among them that are still to be written."""

    steps: list[Step] = field(default_factory=list)
    files: list[tuple[Step, TreeEntry]] = field(default_factory=list)
    size: int = 0

    def is_full(self) -> bool:
        return len(self.files) >= _FILES_AT_ONCE or self.size >= _BYTES_AT_ONCE


def _taken(ordered: Iterable[TreeEntry], folder: Path, meter: Meter) -> Iterator[Step]:
    """Take every step. Files are written beside each other, for most of it is the system's work.

    A tree's folders come before what is in them, so whatever else had their names is gone by then;
    they get their modes at the end, as one may forbid writing into it.
    """
    under_way: deque[tuple[_Batch, Future[None]]] = deque()
    folders: list[TreeEntry] = []
    batch = _Batch()
    with ThreadPoolExecutor(max_workers=_THREADS) as pool:

        def send() -> None:
            nonlocal batch
            under_way.append((batch, pool.submit(_write_all, batch, folder, meter)))
            batch = _Batch()

        for step, entry in _steps(ordered, folder, meter):
            if entry.kind is EntryKind.DIRECTORY:
                folders.append(entry)
            elif entry.kind is EntryKind.HARDLINK:
                send()
                yield from _finished(under_way, 0)  # its file must be there
            batch.steps.append(step)
            if entry.kind is EntryKind.FILE:
                batch.files.append((step, entry))
                batch.size += step.size
            else:
                _take(step, entry, folder, meter)
            if batch.is_full():
                send()
                yield from _finished(under_way, _MOST_UNDER_WAY)
        send()
        yield from _finished(under_way, 0)
    for entry in reversed(folders):
        _adjust(entry, f"{folder}/{entry.path}")


def _write_all(batch: _Batch, folder: Path, meter: Meter) -> None:
    for step, entry in batch.files:
        _take(step, entry, folder, meter)


def _finished(under_way: deque[tuple[_Batch, Future[None]]], left: int) -> Iterator[Step]:
    while len(under_way) > left:
        batch, future = under_way.popleft()
        future.result()
        yield from batch.steps


def _step(entry: TreeEntry, folder: Path, written: set[str]) -> Step | None:
    place = f"{folder}/{entry.path}"
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
    return _made(entry, action)


def _made(entry: TreeEntry, action: Action) -> Step:
    size = 0 if action is Action.ADJUST else entry.size
    return Step(action=action, path=entry.path, kind=entry.kind, size=size)


def _lstat(place: str) -> os.stat_result | None:
    try:
        return os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same_kind(entry: TreeEntry, found: os.stat_result, place: str, folder: Path) -> bool:
    match entry.kind:
        case EntryKind.DIRECTORY:
            return stat.S_ISDIR(found.st_mode)
        case EntryKind.SYMLINK:
            return stat.S_ISLNK(found.st_mode) and os.readlink(place) == entry.target  # noqa: PTH115
        case EntryKind.HARDLINK:
            other = _lstat(f"{folder}/{entry.target}")
            return other is not None and os.path.samestat(other, found)
        case EntryKind.FILE:
            return stat.S_ISREG(found.st_mode)


def _same_content(entry: TreeEntry, found: os.stat_result, place: str) -> bool:
    if found.st_size != entry.size:
        return False
    if isinstance(entry.source, Path):
        return found.st_mtime_ns == os.stat(entry.source).st_mtime_ns  # noqa: PTH116
    with open(place, "rb", buffering=0) as file:  # noqa: PTH123  by its name, as all here
        if isinstance(entry.source, bytes):
            return file.read(entry.size) == entry.source
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


def _take(step: Step, entry: TreeEntry, folder: Path, meter: Meter) -> None:
    place = f"{folder}/{entry.path}"
    if step.action is Action.REPLACE:
        _remove(Path(place))
    if step.action is Action.ADJUST:
        if entry.kind is EntryKind.FILE:
            _adjust(entry, place)
        return
    match entry.kind:
        case EntryKind.DIRECTORY:
            os.mkdir(place, 0o700)  # noqa: PTH102  by its name, as all here
        case EntryKind.SYMLINK:
            os.symlink(entry.target, place)  # noqa: PTH211
        case EntryKind.HARDLINK:
            os.link(f"{folder}/{entry.target}", place)
        case EntryKind.FILE:
            _write(entry, place, meter)


def _adjust(entry: TreeEntry, place: str | int) -> None:
    """Owner and mode of a file or folder, by its place or open."""
    if os.geteuid() == 0:
        os.chown(place, entry.uid, entry.gid)
    os.chmod(place, _mode(entry))  # noqa: PTH101  also of an open one


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def _write(entry: TreeEntry, place: str, meter: Meter) -> None:
    descriptor = os.open(place, _NEW, 0o600)
    try:
        times = None
        match entry.source:
            case Path() as source:
                times = _copy(source, descriptor, meter)
            case FilePart(path=source, offset=offset):
                _copy(source, descriptor, meter, offset, entry.size)
            case content:
                write_all(descriptor, content or b"")
                meter.add(entry.size)
        _adjust(entry, descriptor)
        if times is not None:
            os.utime(descriptor, ns=(times.st_atime_ns, times.st_mtime_ns))
    finally:
        os.close(descriptor)


def _copy(
    source: Path, descriptor: int, meter: Meter, at: int = 0, size: int | None = None
) -> os.stat_result:
    """Copy a file, or a part of one; what is added to it meanwhile stays out."""
    origin = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = os.fstat(origin)
        left = info.st_size if size is None else size
        while left > 0 and (count := os.sendfile(descriptor, origin, at, min(left, _LARGE))):
            at, left = at + count, left - count
            meter.add(count)
        return info
    finally:
        os.close(origin)
