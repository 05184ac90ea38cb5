"""What differs between two sealed images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from casemate.image.format import TocEntry
from casemate.image.reader import SealedImage
from casemate.image.tree import EntryKind
from casemate.image.workers import Meter, Progress

_PIECE = 1 << 20
_METADATA = ("kind", "mode", "uid", "gid", "mtime", "target", "xattrs")


class Change(StrEnum):
    """What became of an entry."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An entry that isn't the same in both images.

    Args:
        path: of the entry.
        change: what became of it.
        what: which of its properties differ, where it was changed: names of `TocEntry`'s fields,
            ``content`` among them.
    """

    path: str
    change: Change
    what: tuple[str, ...] = ()


def compare(
    old: SealedImage, new: SealedImage, *, progress: Progress | None = None
) -> Iterator[Difference]:
    """Every entry that differs, in the order of paths; contents are read and compared.

    Args:
        old: an open image.
        new: another.
        progress: called with (bytes compared, bytes to compare at most).

    Raises:
        NotGenuineError: a chunk was changed.
        UnavailableError: a file can't be read.
    """
    before = {entry.path: entry for entry in old}
    after = {entry.path: entry for entry in new}
    alike = (e for e in new if (was := before.get(e.path)) is not None and was.size == e.size)
    meter = Meter(sum(entry.size for entry in alike), progress)
    for path in sorted({*before, *after}, key=str.encode):
        if path not in after:
            yield Difference(path=path, change=Change.REMOVED)
        elif path not in before:
            yield Difference(path=path, change=Change.ADDED)
        elif what := tuple(_differing(old, before[path], new, after[path], meter)):
            yield Difference(path=path, change=Change.CHANGED, what=what)


def _differing(
    old: SealedImage, a: TocEntry, new: SealedImage, b: TocEntry, meter: Meter
) -> Iterator[str]:
    for name in _METADATA:
        if getattr(a, name) != getattr(b, name):
            yield name
    if a.kind is b.kind is EntryKind.FILE and not _same_content(old, a, new, b, meter):
        yield "content"


def _same_content(
    old: SealedImage, a: TocEntry, new: SealedImage, b: TocEntry, meter: Meter
) -> bool:
    if a.size != b.size:
        return False
    for start in range(0, a.size, _PIECE):
        piece = old.read_file(a, start, _PIECE)
        if piece != new.read_file(b, start, _PIECE):
            return False
        meter.add(len(piece))
    return True
