"""Copying what a bill's targets name: folders with their links, and files."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.bom.builder import (
    SYSTEM_FOLDERS,
    Builder,
    check_hash,
    is_program,
    join,
    missing,
    reading,
    real,
)
from casemate.image.bom.grammar import Attributes, CopyItem, FileItem
from casemate.image.bom.patterns import is_excluded

Owners = Callable[[str, str], tuple[int, int]]
"""From an owner as the bill has it, and file and line, to numbers."""
_MAX_FOLLOWED = 4


def add_folders(builder: Builder, base: str, copy: CopyItem, folder: str, owners: Owners) -> None:
    """Copy a folder, or all that a pattern stands for.

    Raises:
        UsageError: ``bom.missing``, ``bom.outside``.
    """
    with reading(copy.where):
        _add_folders(builder, base, copy, folder, owners)


def _add_folders(builder: Builder, base: str, copy: CopyItem, folder: str, owners: Owners) -> None:
    pattern = os.path.join(copy.source, folder) if copy.source else folder  # noqa: PTH118
    starts = [Path(pattern)]
    if glob.has_magic(pattern) and not starts[0].exists():
        found = sorted(glob.glob(pattern))  # noqa: PTH207  absolute too
        starts = [path for path in map(Path, found) if path.is_dir()]
        if not starts:
            raise missing(copy.where, pattern, "at least one folder that matches")
    for start in starts:
        if not start.is_dir():
            raise missing(copy.where, str(start), "a folder", got=_what_is(start))
        builder.sources.add(real(copy.source or start))
        _check_inside(start, copy, copy.where)
        name = "" if folder.endswith("/") else start.name
        if name and is_excluded(name, copy.excludes, folder=True):
            builder.warnings.append(f"{copy.where}: {start} is named, and excluded: it stays out")
            continue
        _Copying(
            builder=builder,
            copy=copy,
            why=f"{copy.where}: dirs {folder}",
            target=base,
            owner=owners(copy.attributes.owner, copy.where),
        ).folder(start, name, followed=0)


def add_files(builder: Builder, base: str, copy: CopyItem, file: FileItem, owners: Owners) -> None:
    """Copy a file, or all that a pattern stands for.

    Raises:
        UsageError: ``bom.missing``, ``bom.outside``, ``bom.hash``.
    """
    with reading(file.where):
        _add_files(builder, base, copy, file, owners)


def _add_files(builder: Builder, base: str, copy: CopyItem, file: FileItem, owners: Owners) -> None:
    attributes = file.attributes.over(copy.attributes)
    for path in _named(copy, file):
        if not path.is_file():
            raise missing(file.where, str(path), "a regular file", got=_what_is(path))
        builder.sources.add(real(copy.source or path.parent))
        source = _check_inside(path, copy, file.where)
        if file.sha256:
            check_hash(source, file.sha256, file.where)
        builder.add_file(
            join(base, file.rename or path.name, file.where), source, why=f"{file.where}: files",
            executable=is_program(source), strict=True, autodep=file.autodep,
            mode=attributes.mode, owner=owners(attributes.owner, file.where),
        )  # fmt: skip


def _named(copy: CopyItem, file: FileItem) -> list[Path]:
    pattern = str(Path(copy.source) / file.name) if copy.source else file.name
    paths = [Path(pattern)]
    if glob.has_magic(pattern) and not paths[0].exists():
        found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  absolute too
        paths = [path for path in map(Path, found) if "**" not in pattern or path.is_file()]
    if not paths or (file.rename and len(paths) > 1):
        expected = "one file, as it is renamed" if paths else "at least one file that matches"
        raise missing(file.where, pattern, expected, got=f"{len(paths)} files")
    return paths


def _allowed(copy: CopyItem) -> list[Path]:
    return [*([real(copy.source)] if copy.source else []), *map(real, SYSTEM_FOLDERS)]


def _check_inside(path: Path, copy: CopyItem, where: str) -> Path:
    """What a path means, links followed; one in a supplier's folder must not lead to our own files.

    Without ``from`` it's the bill itself that says where the file is.
    """
    found = real(path)
    if copy.source and not any(found.is_relative_to(folder) for folder in _allowed(copy)):
        raise UsageError(
            "bom.outside",
            f"{where}: {path} leads out of {copy.source}",
            field=str(path),
            expected=f"something in {copy.source}, or in this host's own {SYSTEM_FOLDERS[0]}",
            got=str(found),
            remedy="If it is meant, name that file in the bill by its own path.",
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Copying:
    """One folder on its way into the tree.

    Args:
        builder: of the tree.
        copy: what the bill says.
        why: for every path of it.
        target: the folder of the new root that it goes to.
        owner: of everything.
    """

    builder: Builder
    copy: CopyItem
    why: str
    target: str
    owner: tuple[int, int]

    @property
    def attributes(self) -> Attributes:
        """Of its files."""
        return self.copy.attributes

    def folder(self, start: Path, top: str, *, followed: int) -> None:
        """Copy a folder.

        Args:
            start: on this host.
            top: its path below the target; empty for its content alone.
            followed: how many links led here.
        """
        for where, folders, files in os.walk(start, onerror=_raise):
            prefix = join(top, os.path.relpath(where, start), self.copy.where)
            links = [name for name in folders if (Path(where) / name).is_symlink()]
            folders[:] = [
                name
                for name in sorted(folders)
                if name not in links
                and not self._excluded(join(prefix, name, self.copy.where), folder=True)
            ]
            self.builder.add_folder(
                join(self.target, prefix, self.copy.where), why=self.why,
                owner=self.owner if prefix else (0, 0),
            )  # fmt: skip
            for name in sorted([*files, *links]):
                path = join(prefix, name, self.copy.where)
                if not self._excluded(path, folder=False):
                    self._entry(Path(where) / name, path, followed)

    def _excluded(self, path: str, *, folder: bool) -> bool:
        return is_excluded(path, self.copy.excludes, folder=folder)

    def _entry(self, source: Path, path: str, followed: int) -> None:
        place = join(self.target, path, self.copy.where)
        if source.is_symlink():
            self._link(source, path, followed)
        elif source.is_file():
            self.builder.add_file(
                place, source, why=self.why, executable=is_program(source),
                mode=self.attributes.mode, owner=self.owner,
            )  # fmt: skip
        else:
            self.builder.warnings.append(
                f"{source} is left out: neither a file nor a folder nor a link"
            )

    def _link(self, source: Path, path: str, followed: int) -> None:
        """A link within the target stays one; what one out of it means is copied, if it may be."""
        place, text = join(self.target, path, self.copy.where), os.readlink(source)  # noqa: PTH115  as it is
        found = real(source)
        may = any(found.is_relative_to(folder) for folder in _allowed(self.copy))
        if _stays_within(path, text):
            self.builder.add_link(place, text, why=self.why)
        elif may and found.is_file():
            self.builder.add_file(
                place, found, why=self.why, executable=is_program(found),
                mode=self.attributes.mode, owner=self.owner,
            )  # fmt: skip
        elif may and found.is_dir() and followed < _MAX_FOLLOWED:
            self.folder(found, path, followed=followed + 1)
        else:
            self.builder.add_link(place, text, why=self.why)
            self.builder.warnings.append(
                f"{source} is a link that leads out of its folder, and stays one: {text}"
            )


def _stays_within(path: str, text: str) -> bool:
    """Whether a link leads nowhere above the target: rsync's rule for a safe one.

    Args:
        path: of the link, below the target.
        text: of the link.
    """
    down = text
    while down.startswith("../"):
        down = down[3:]
    if text.startswith("/") or ("/../" in f"/{down}/" and down != ".."):
        return False
    end = os.path.normpath(f"{os.path.dirname(path)}/{text}" if "/" in path else text)  # noqa: PTH120
    return end != ".." and not end.startswith("../")


def _what_is(path: Path) -> str:
    if path.is_dir():
        return "a folder"
    if path.is_file():
        return "a file"
    return "something else" if path.exists() else "nothing"


def _raise(error: OSError) -> None:
    raise error
