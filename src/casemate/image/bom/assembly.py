"""What a source of a tree amounts to: its entries, and why each is there."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casemate.errors import UsageError
from casemate.image.tree import EntryKind, TreeEntry

if TYPE_CHECKING:
    from casemate.image.oci import ContainerTree

OF = " of "
"""In a reason: for the sake of another file, whose path follows."""


_LINKS = 40  # as many as Linux follows on the way to a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What a bill amounts to.

    Args:
        entries: the tree, sorted by path.
        why: for each path, which part of the bill asked for it.
        warnings: what may be missing.
        container: the container image that it is from, if it is; holds the contents of its files.
        weights: digest of a model's weights in hex, if it is a model.
    """

    entries: tuple[TreeEntry, ...]
    why: Mapping[str, str]
    warnings: tuple[str, ...]
    container: ContainerTree | None = None
    weights: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)

    def reasons(self, path: str) -> dict[str, str]:
        """Why a path is in the tree; of a file that came for others' sake, theirs too.

        Args:
            path: in the tree, with or without a leading slash, also by way of a link to a folder.

        Raises:
            UsageError: ``image.no-such-entry``.
        """
        kinds = {entry.path: entry for entry in self.entries}
        name = _without_links(path, kinds)
        if name not in kinds:
            raise UsageError(
                "image.no-such-entry",
                f"{path} isn't in the tree",
                field="path",
                expected="a path of the tree",
                got=path,
                remedy="casemate image copy SOURCE FOLDER --dry-run lists what is in it.",
            )
        reasons: dict[str, str] = {}
        while name and name not in reasons:
            reasons[name] = self.why.get(name, "it is in the folder")
            above = reasons[name].partition(OF)[2]
            name = above if above in kinds else ""
        return reasons


def _without_links(path: str, entries: Mapping[str, TreeEntry]) -> str:
    """Where a path of the tree really is: its folders may be links, as ``/lib`` is to ``usr/lib``.

    What it leads to in the end may be a link, and is left one.
    """
    parts, found, followed = path.strip("/").split("/"), "", 0
    while parts:
        part = parts.pop(0)
        if part in ("", ".", ".."):
            found = posixpath.dirname(found) if part == ".." else found
            continue
        place = f"{found}/{part}".lstrip("/")
        entry = entries.get(place)
        if entry is not None and entry.kind is EntryKind.SYMLINK and parts and followed < _LINKS:
            followed += 1
            found = "" if entry.target.startswith("/") else found
            parts = [*entry.target.split("/"), *parts]
        else:
            found = place
    return found
