"""Where files of this host really are: links followed, each folder looked at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or in it; both absolute and without links."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True, slots=True, kw_only=True)
class RealPlaces:
    """What paths below a folder mean.

    Args:
        root: the folder, without links.
    """

    root: str
    _folders: dict[str, str] = field(default_factory=dict)

    def of(self, path: str) -> str:
        """The place of a path, links followed; nothing needs to be there.

        Args:
            path: relative, without parts that are empty, ``.`` or ``..``.
        """
        folder, _, name = path.rpartition("/")
        found = self._folders.get(folder)
        if found is None:
            found = self._folders[folder] = os.path.realpath(f"{self.root}/{folder}")
        place = f"{found}/{name}"
        is_link = os.path.islink(place)  # noqa: PTH114  thousands of them
        return os.path.realpath(place) if is_link else place
