"""What a source of a tree amounts to: its entries, and why each is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casemate.errors import UsageError
from casemate.image.tree import TreeEntry

if TYPE_CHECKING:
    from casemate.image.oci import ContainerTree

OF = " of "
"""In a reason: for the sake of another file, whose path follows."""


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
            path: in the tree, with or without a leading slash.

        Raises:
            UsageError: ``image.no-such-entry``.
        """
        name = path.strip("/")
        if name not in {entry.path for entry in self.entries}:
            raise UsageError(
                "image.no-such-entry",
                f"{path} isn't in the tree",
                field="path",
                expected="a path of the tree",
                got=path,
                remedy="casemate image ls lists what a sealed image holds.",
            )
        reasons: dict[str, str] = {}
        while name and name not in reasons:
            reasons[name] = self.why.get(name, "it is in the folder")
            _, mark, name = reasons[name].partition(OF)
            name = name if mark else ""
        return reasons
