"""An image's tree as a kernel sees it: numbered nodes, and names that lead to them. No I/O."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from casemate.image.format import TocEntry
from casemate.image.tree import EntryKind

ROOT = 1
_TYPE = {
    EntryKind.FILE: stat.S_IFREG,
    EntryKind.DIRECTORY: stat.S_IFDIR,
    EntryKind.SYMLINK: stat.S_IFLNK,
}


class Node(NamedTuple):
    """What the kernel can name: the root or an entry; hard links share one.

    Args:
        number: inode number, and the kernel's handle.
        parent: of the directory it lies in (for a hard link's file, the first name's).
        entry: None for the root.
        links: how many names it has.
    """

    number: int
    parent: int
    entry: TocEntry | None
    links: int

    @property
    def mode(self) -> int:
        """Type and permission bits."""
        if self.entry is None:
            return stat.S_IFDIR | 0o755
        return _TYPE[self.entry.kind] | self.entry.mode


class Nodes:
    """All nodes of a tree.

    Args:
        entries: each directory before what lies in it, each file before hard links to it.

    Attributes:
        nodes: by number; the root is :data:`ROOT`.
        names: of each directory, by its number: names, and the numbers that they lead to.
    """

    def __init__(self, entries: Iterable[TocEntry]) -> None:
        entries = tuple(entries)
        numbers = {"": ROOT}
        links: Counter[str] = Counter()
        folders: Counter[str] = Counter()
        for entry in entries:
            held = entry.target if entry.kind is EntryKind.HARDLINK else entry.path
            numbers[entry.path] = numbers.get(held) or len(numbers) + ROOT
            links[held] += 1
            if entry.kind is EntryKind.DIRECTORY:
                folders[entry.path.rpartition("/")[0]] += 1
        self.nodes = {ROOT: Node(ROOT, ROOT, None, 2 + folders[""])}
        self.names: dict[int, dict[bytes, int]] = {ROOT: {}}
        for entry in entries:
            folder, _, name = entry.path.rpartition("/")
            number = numbers[entry.path]
            self.names[numbers[folder]][name.encode()] = number
            count = links[entry.path]
            if entry.kind is EntryKind.DIRECTORY:
                self.names[number] = {}
                count = 2 + folders[entry.path]
            if number not in self.nodes:
                self.nodes[number] = Node(number, numbers[folder], entry, count)
