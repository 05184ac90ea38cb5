"""Assemble a tree from a bill of materials: entries that point at files of this host.

Nothing is copied to a staging folder; sealing reads the files. Nothing of the input runs.
"""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from casemate.errors import MalformedError, UsageError
from casemate.image.bom.grammar import BillOfMaterials, CopyItem, FileItem, Target
from casemate.image.elf import find_library, is_elf, library_folder, read_needs
from casemate.image.python_tree import python_files
from casemate.image.tree import EntryKind, TreeEntry

# The new root has Debian's merged layout: these names are links into usr.
_MERGED = ("bin", "lib", "lib64", "sbin")
# Folders that a server without privileges expects to write to.
_FOR_EVERYBODY = ("tmp", "var/tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What a bill amounts to.

    Args:
        entries: the tree, sorted by path.
        why: for each path, which part of the bill asked for it.
        warnings: what may be missing.
    """

    entries: tuple[TreeEntry, ...]
    why: Mapping[str, str]
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


def assemble(bill: BillOfMaterials) -> Assembly:
    """Assemble the tree of a bill.

    Raises:
        UsageError: a file isn't there or isn't what its hash says; a library isn't found.
        MalformedError: a named ELF file can't be read.
    """
    builder = _Builder(bill.excludes)
    for python in bill.pythons:
        for file in python_files(python):
            builder.add_file(file.path, file.source, why=file.why, executable=file.executable)
    for target in bill.targets:
        _add_target(builder, target)
    for write in bill.writes:
        builder.add_file(
            _relative(write.path), write.content.encode(), why=f"{write.where}: write",
            mode=write.mode,
        )  # fmt: skip
    if bill.users:
        _add_users(builder, bill.users)
    builder.add_libraries()
    return builder.finish()


def _add_target(builder: _Builder, target: Target) -> None:
    base = _relative(target.path)
    for name in target.mkdirs:
        path = _join(base, name)
        mode = 0o1777 if path in _FOR_EVERYBODY else 0o755
        builder.add_folder(path, why=f"{target.where}: mkdirs", mode=mode)
    for source, name in target.links:
        builder.add_link(_join(base, name), source, why=f"{target.where}: createlinks")
    for copy in target.copies:
        for folder in copy.dirs:
            _add_folder(builder, base, copy, folder)
        for file in copy.files:
            _add_named_file(builder, base, copy, file)


def _add_folder(builder: _Builder, base: str, copy: CopyItem, folder: str) -> None:
    start = Path(copy.source) / folder if copy.source else Path(folder)
    if not start.is_dir():
        raise _missing(copy.where, str(start), "a folder")
    target = base if folder.endswith("/") else _join(base, start.name)
    for where, folders, files in os.walk(start):
        folders.sort()
        here = _join(target, os.path.relpath(where, start))
        builder.add_folder(here, why=f"{copy.where}: dirs {folder}")
        for name in sorted(files) + [n for n in folders if (Path(where) / n).is_symlink()]:
            path = Path(where) / name
            relative = os.path.relpath(path, start)
            if builder.excluded(relative):
                continue
            builder.add_host(
                _join(here, name), path, why=f"{copy.where}: dirs {folder}", strict=False
            )


def _add_named_file(builder: _Builder, base: str, copy: CopyItem, file: FileItem) -> None:
    pattern = str(Path(copy.source) / file.name) if copy.source else file.name
    paths = [Path(pattern)]
    if glob.has_magic(pattern):
        paths = [Path(found) for found in sorted(glob.glob(pattern))]  # noqa: PTH207  absolute too
    for path in paths:
        if not path.exists():
            raise _missing(file.where, str(path), "a file")
        if file.sha256:
            _check_hash(path, file)
        name = file.rename or path.name
        builder.add_host(
            _join(base, name), path, why=f"{file.where}: files", strict=True,
            autodep=file.autodep, follow=True,
        )  # fmt: skip
    if not paths:
        raise _missing(file.where, pattern, "at least one file that matches")


def _check_hash(path: Path, file: FileItem) -> None:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise UsageError(
            "bom.hash",
            f"{file.where}: {path} is another file than the bill means",
            field="hash",
            expected=file.sha256,
            got=digest,
            remedy="Get the right file, or correct the bill if the change is meant.",
        )


def _add_users(builder: _Builder, users: tuple[tuple[str, int, int], ...]) -> None:
    named = {name: (uid, gid) for name, uid, gid in (("root", 0, 0), *users)}
    passwd = "".join(f"{n}:x:{u}:{g}::/:/nonexistent\n" for n, (u, g) in named.items())
    group = "".join(f"{n}:x:{g}:\n" for n, (_, g) in named.items())
    builder.add_file("etc/passwd", passwd.encode(), why="users")
    builder.add_file("etc/group", group.encode(), why="users")


@dataclass(slots=True)
class _Builder:
    excludes: tuple[str, ...]
    entries: dict[str, TreeEntry] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _elves: dict[str, tuple[Path, bool]] = field(default_factory=dict)

    def excluded(self, relative: str) -> bool:
        return any(
            fnmatch.fnmatchcase(relative, pattern)
            or fnmatch.fnmatchcase(relative.rsplit("/", 1)[-1], pattern)
            for pattern in self.excludes
        )

    def add_folder(self, path: str, *, why: str, mode: int = 0o755) -> None:
        path = _merged(path)
        if path and path not in self.entries:
            self._put(TreeEntry(path=path, kind=EntryKind.DIRECTORY, mode=mode), why)

    def add_link(self, path: str, target: str, *, why: str) -> None:
        self._put(
            TreeEntry(path=_merged(path), kind=EntryKind.SYMLINK, mode=0o777, target=target), why
        )

    def add_file(
        self,
        path: str,
        source: Path | bytes,
        *,
        why: str,
        mode: int | None = None,
        executable: bool = False,
        strict: bool = False,
        autodep: bool = True,
    ) -> None:
        path = _merged(path)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if mode is None:
            mode = 0o755 if executable else 0o644
        self._put(
            TreeEntry(path=path, kind=EntryKind.FILE, mode=mode, size=size, source=source), why
        )
        if autodep and isinstance(source, Path) and size > 64 and is_elf(source):
            self._elves[path] = source, strict or executable

    def add_host(
        self,
        path: str,
        source: Path,
        *,
        why: str,
        strict: bool,
        autodep: bool = True,
        follow: bool = False,
    ) -> None:
        """Add a file of the host as it is; a link stays one inside a folder that is copied."""
        if source.is_symlink() and not follow:
            self.add_link(path, str(source.readlink()), why=why)
        elif source.is_file():
            executable = bool(source.stat().st_mode & 0o111)
            self.add_file(
                path, source, why=why, executable=executable, strict=strict, autodep=autodep
            )
        elif follow:
            raise _missing(why, str(source), "a regular file")

    def add_libraries(self) -> None:
        """Bring along what every ELF file needs, until nothing new is needed."""
        queue = sorted(self._elves)
        seen: set[str] = set()
        while queue:
            path = queue.pop()
            if path in seen:
                continue
            seen.add(path)
            source, strict = self._elves[path]
            for added in self._libraries_of(path, source, strict=strict):
                if added not in seen:
                    queue.append(added)

    def _libraries_of(self, path: str, source: Path, *, strict: bool) -> Iterator[str]:
        try:
            needs = read_needs(source)
        except MalformedError as error:
            if strict:
                raise
            self.warnings.append(str(error))
            return
        if needs.interpreter:
            loader = Path(needs.interpreter)
            if loader.is_file():
                self.add_file(
                    needs.interpreter.lstrip("/"), Path(os.path.realpath(loader)),
                    why=f"loader of {path}", executable=True, autodep=False,
                )  # fmt: skip
        origin = Path(os.path.realpath(source)).parent
        for name in needs.needed:
            library = find_library(name, needs=needs, origin=origin)
            if library is None:
                self._missing_library(name, path, strict=strict)
                continue
            if library.relative:
                target = os.path.normpath(f"{path.rsplit('/', 1)[0]}/{library.relative}")
            else:
                target = f"{library_folder(needs.machine)}/{name}"
            target = _merged(target)
            if target not in self.entries:
                real = Path(os.path.realpath(library.host))
                self.add_file(target, real, why=f"library of {path}", strict=strict)
                yield target

    def _missing_library(self, name: str, path: str, *, strict: bool) -> None:
        if any(entry.rsplit("/", 1)[-1] == name for entry in self.entries):
            return  # loaded by somebody else's hand, as bundled libraries are
        if strict:
            raise UsageError(
                "bom.library",
                f"{path} needs {name}, which this host doesn't have",
                field=path,
                expected=f"{name} in a folder that the loader searches",
                got="nothing",
                remedy="Install the package that has it, or say autodep: false.",
            )
        self.warnings.append(f"{path} needs {name}, which this host doesn't have")

    def finish(self) -> Assembly:
        for name in _MERGED:
            if any(path.startswith(f"usr/{name}/") for path in self.entries):
                self.add_link_raw(name, f"usr/{name}")
        for path in list(self.entries):
            parent = path
            while "/" in parent:
                parent = parent.rsplit("/", 1)[0]
                self.add_folder(parent, why=self.why[path])
        entries = tuple(self.entries[path] for path in sorted(self.entries))
        return Assembly(
            entries=entries, why=MappingProxyType(self.why), warnings=tuple(self.warnings)
        )

    def add_link_raw(self, path: str, target: str) -> None:
        entry = TreeEntry(path=path, kind=EntryKind.SYMLINK, mode=0o777, target=target)
        self.entries[path], self.why[path] = entry, "merged layout"

    def _put(self, entry: TreeEntry, why: str) -> None:
        # Later entries win; a folder never takes the place of its own content.
        self.entries[entry.path], self.why[entry.path] = entry, why
        if entry.kind is not EntryKind.FILE:
            self._elves.pop(entry.path, None)


def _relative(path: str) -> str:
    return _join("", path.lstrip("/"))


def _join(base: str, name: str) -> str:
    joined = os.path.normpath(f"{base}/{name}").strip("/")
    if joined.startswith("..") or "\0" in name:
        raise MalformedError(
            "bom.malformed",
            f"the path {name!r} leads out of the new root",
            field="path",
            expected="a path within",
            got=name,
        )
    return "" if joined == "." else joined


def _merged(path: str) -> str:
    first, _, rest = path.partition("/")
    return f"usr/{path}" if first in _MERGED and rest else path


def _missing(where: str, path: str, expected: str) -> UsageError:
    return UsageError(
        "bom.missing",
        f"{where}: {path} isn't there",
        field=path,
        expected=expected,
        got="nothing",
        remedy="Install it, or correct the bill.",
    )
