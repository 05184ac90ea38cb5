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
from casemate.image.elf import (
    Library,
    LibrarySearch,
    SearchFolder,
    configured_folders,
    expand_folders,
    is_elf,
    loaded_part,
    read_needs,
)
from casemate.image.oci import ContainerTree
from casemate.image.python_tree import python_files
from casemate.image.tree import EntryKind, TreeEntry

# The new root has Debian's merged layout: these names are links into usr.
_MERGED = ("bin", "lib", "lib64", "sbin")
# Where this host keeps programs and libraries, and nothing private. A link may lead there, and an
# ELF file may take libraries from there, beside the folders that the bill itself names.
_SYSTEM_FOLDERS = ("/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
# Folders that a server without privileges expects to write to.
_FOR_EVERYBODY = ("tmp", "var/tmp")
_OF = " of "  # in a reason: for the sake of another file


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What a bill amounts to.

    Args:
        entries: the tree, sorted by path.
        why: for each path, which part of the bill asked for it.
        warnings: what may be missing.
        container: the container image that it is from, if it is; holds the contents of its files.
    """

    entries: tuple[TreeEntry, ...]
    why: Mapping[str, str]
    warnings: tuple[str, ...]
    container: ContainerTree | None = None

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
            _, mark, name = reasons[name].partition(_OF)
            name = name if mark else ""
        return reasons


def assemble(bill: BillOfMaterials) -> Assembly:
    """Assemble the tree of a bill.

    Raises:
        UsageError: a file isn't there, isn't what its hash says, or leads out of the folders that
            the bill names; a library isn't found.
        MalformedError: a named ELF file can't be read; a path leads out of the new root.

    Source: specs/bill-of-materials.md, "Assembly".
    """
    builder = _Builder(bill.excludes)
    for python in bill.pythons:
        for file in python_files(python):
            builder.sources.add(file.root)
            builder.add_file(
                file.path, file.source, why=file.why, executable=file.executable,
                strip=file.interpreters_own,
            )  # fmt: skip
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
    builder.sources.add(_real(copy.source or start))
    _check_inside(start, copy, copy.where)
    why = f"{copy.where}: dirs {folder}"
    target = base if folder.endswith("/") else _join(base, start.name)
    for where, folders, files in os.walk(start, onerror=_unreadable):
        prefix = os.path.relpath(where, start)
        kept = [n for n in sorted(folders) if not builder.excluded(_join(prefix, n))]
        folders[:] = [name for name in kept if not (Path(where) / name).is_symlink()]
        here = _join(target, prefix)
        builder.add_folder(here, why=why)
        links = [name for name in kept if name not in folders]
        for name in sorted(files) + links:
            if not builder.excluded(_join(prefix, name)):
                builder.add_host(_join(here, name), Path(where) / name, why=why)


def _add_named_file(builder: _Builder, base: str, copy: CopyItem, file: FileItem) -> None:
    pattern = str(Path(copy.source) / file.name) if copy.source else file.name
    paths = [Path(pattern)]
    if glob.has_magic(pattern) and not paths[0].exists():
        paths = [Path(found) for found in sorted(glob.glob(pattern))]  # noqa: PTH207  absolute too
    if not paths or (file.rename and len(paths) > 1):
        expected = "one file, as it is renamed" if paths else "at least one file that matches"
        raise _missing(file.where, pattern, expected, got=f"{len(paths)} files")
    for path in paths:
        if not path.is_file():
            raise _missing(file.where, str(path), "a regular file")
        builder.sources.add(_real(copy.source or path.parent))
        real = _check_inside(path, copy, file.where)
        if file.sha256:
            _check_hash(real, file)
        builder.add_file(
            _join(base, file.rename or path.name), real, why=f"{file.where}: files",
            executable=_is_program(real), strict=True, autodep=file.autodep,
        )  # fmt: skip


def _check_inside(path: Path, copy: CopyItem, where: str) -> Path:
    """What a path means, links followed; one in a supplier's folder must not lead to our own files.

    Without ``from`` it's the bill itself that says where the file is.
    """
    allowed = [_real(copy.source), *map(_real, _SYSTEM_FOLDERS)]
    real = _real(path)
    if copy.source and not any(real.is_relative_to(folder) for folder in allowed):
        raise UsageError(
            "bom.outside",
            f"{where}: {path} leads out of {copy.source}",
            field=str(path),
            expected=f"something in {copy.source}, or in this host's own {_SYSTEM_FOLDERS[0]}",
            got=str(real),
            remedy="If it is meant, name that file in the bill by its own path.",
        )
    return real


def _is_program(path: Path) -> bool:
    return bool(path.stat().st_mode & 0o111)


def _unreadable(error: OSError) -> None:
    raise UsageError(
        "bom.missing",
        f"{error.filename} can't be read",
        field=str(error.filename),
        expected="a folder that can be listed",
        got=str(error),
    ) from error


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Elf:
    """An ELF file of the tree whose libraries are still to be found.

    Args:
        source: on this host.
        strict: whether it is an error if one is missing.
        inherited: RPATH of what loads it, which holds for it too.
    """

    source: Path
    strict: bool
    inherited: tuple[SearchFolder, ...] = ()


@dataclass(slots=True)
class _Builder:
    excludes: tuple[str, ...]
    sources: set[Path] = field(default_factory=set)
    entries: dict[str, TreeEntry] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _elves: dict[str, _Elf] = field(default_factory=dict)

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
        strip: bool = False,
        inherited: tuple[SearchFolder, ...] = (),
    ) -> None:
        path = _merged(path)
        elf = source if isinstance(source, Path) and is_elf(source) else None
        if elf is not None and strip:
            source = loaded_part(elf)
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        if mode is None:
            mode = 0o755 if executable else 0o644
        self._put(
            TreeEntry(path=path, kind=EntryKind.FILE, mode=mode, size=size, source=source), why
        )
        if autodep and elf is not None:
            self._elves[path] = _Elf(source=elf, strict=strict or executable, inherited=inherited)

    def add_host(self, path: str, source: Path, *, why: str) -> None:
        """Add what lies in a folder that is copied, as it is: a link stays one."""
        if source.is_symlink():
            self.add_link(path, str(source.readlink()), why=why)
        elif source.is_file():
            self.add_file(path, source, why=why, executable=_is_program(source))
        else:
            self.warnings.append(f"{source} is left out: neither a file nor a folder nor a link")

    def add_libraries(self) -> None:
        """Bring along what every ELF file needs, until nothing new is needed."""
        system = {_real(folder) for folder in (*_SYSTEM_FOLDERS, *configured_folders())}
        search = LibrarySearch(
            within=tuple(sorted(self.sources | system)), configured=configured_folders()
        )
        queue = sorted(self._elves, reverse=True)
        while queue:
            path = queue.pop()
            for added in self._add_libraries_of(path, self._elves[path], search):
                queue.append(added)

    def _add_libraries_of(self, path: str, elf: _Elf, search: LibrarySearch) -> Iterator[str]:
        try:
            needs = read_needs(elf.source)
        except MalformedError as error:
            if elf.strict:
                raise
            self.warnings.append(str(error))
            return
        if needs.interpreter:
            self._add_loader(path, search.loader(needs), needs.interpreter, strict=elf.strict)
        origin, target = _real(elf.source).parent, path.rpartition("/")[0]
        own = expand_folders(needs.rpath, origin=origin, target=target)
        if needs.runpath is None:
            folders = (*own, *elf.inherited)
        else:
            folders = expand_folders(needs.runpath, origin=origin, target=target)
        for name in needs.needed:
            library = search.find(name, needs=needs, folders=folders)
            if library is None:
                self._missing_library(name, path, strict=elf.strict)
                continue
            place = _merged(library.target)
            if place not in self.entries:
                self.add_file(
                    place, library.host, why=f"library{_OF}{path}", strict=elf.strict,
                    strip=name.startswith("libpython"), inherited=(*own, *elf.inherited),
                )  # fmt: skip
                yield place

    def _add_loader(self, path: str, loader: Library | None, name: str, *, strict: bool) -> None:
        if loader is not None:
            self.add_file(
                loader.target, loader.host, why=f"loader{_OF}{path}", executable=True, autodep=False
            )
        elif strict:
            raise _no_library(path, name, "a loader of this host's own")
        else:
            self.warnings.append(f"{path} names a loader that isn't this host's own: {name}")

    def _missing_library(self, name: str, path: str, *, strict: bool) -> None:
        if any(entry.rsplit("/", 1)[-1] == name for entry in self.entries):
            return  # loaded by somebody else's hand, as bundled libraries are
        if strict:
            raise _no_library(path, name, "a library where the loader searches")
        self.warnings.append(f"{path} needs {name}, which isn't where its libraries may be from")

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
        self._elves.pop(entry.path, None)


def _relative(path: str) -> str:
    return _join("", path.lstrip("/"))


def _join(base: str, name: str) -> str:
    if ".." in name.split("/") or "\0" in name:
        raise MalformedError(
            "bom.malformed",
            f"the path {name!r} leads out of the new root, or may do so",
            field="path",
            expected="a path without '..'",
            got=name,
        )
    joined = os.path.normpath(f"{base}/{name}").strip("/")
    return "" if joined == "." else joined


def _merged(path: str) -> str:
    first, _, rest = path.partition("/")
    return f"usr/{path}" if first in _MERGED and rest else path


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))


def _no_library(path: str, name: str, expected: str) -> UsageError:
    return UsageError(
        "bom.library",
        f"{path} needs {name}, which isn't where its libraries may be from",
        field=path,
        expected=f"{name}: {expected}, in {', '.join(_SYSTEM_FOLDERS)} or a folder of the bill",
        got="nothing",
        remedy="Install the package that has it, name its folder as 'from' of a copy, or say "
        "autodep: false.",
    )


def _missing(where: str, path: str, expected: str, *, got: str = "nothing") -> UsageError:
    return UsageError(
        "bom.missing",
        f"{where}: {path} isn't there",
        field=path,
        expected=expected,
        got=got,
        remedy="Install it, or correct the bill.",
    )
