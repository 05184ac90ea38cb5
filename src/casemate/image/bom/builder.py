"""The tree under construction: entries, why each is there, and the libraries that follow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from casemate.errors import MalformedError, UsageError
from casemate.image.bom.assembly import OF, Assembly
from casemate.image.bom.rules import loaded_by_name
from casemate.image.elf import ElfNeeds, host_needs, loaded_part, looked_at, read_needs
from casemate.image.libraries import (
    Library,
    LibrarySearch,
    SearchFolder,
    configured_folders,
    expand_folders,
)
from casemate.image.tree import EntryKind, TreeEntry

# The new root has Debian's merged layout: these names are links into usr.
_MERGED = ("bin", "lib", "lib64", "sbin")
SYSTEM_FOLDERS = ("/usr", "/opt", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""Where this host keeps programs and libraries, and nothing private. A link may lead there, and an
ELF file may take libraries from there, beside the folders that the bill itself names."""


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
class Builder:
    """Takes entries one by one; later ones take the place of earlier ones.

    Args:
        sources: folders of this host that the bill names: libraries may be from there too.
        warnings: what may be missing.
    """

    sources: set[Path] = field(default_factory=set)
    entries: dict[str, TreeEntry] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _elves: dict[str, _Elf] = field(default_factory=dict)
    _search: LibrarySearch | None = None
    _found: dict[tuple[str, int, int, tuple[SearchFolder, ...]], tuple[Library, ...]] = field(
        default_factory=dict
    )

    def add_folder(
        self, path: str, *, why: str, mode: int | None = None, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """Add a folder; one that is there stays, unless a mode or an owner is asked for."""
        path = merged(path)
        if path and (path not in self.entries or mode is not None or owner != (0, 0)):
            uid, gid = owner
            self._put(
                TreeEntry(
                    path=path, kind=EntryKind.DIRECTORY, mode=0o755 if mode is None else mode,
                    uid=uid, gid=gid,
                ),
                why,
            )  # fmt: skip

    def add_link(self, path: str, target: str, *, why: str) -> None:
        """Add a symbolic link."""
        entry = TreeEntry(path=merged(path), kind=EntryKind.SYMLINK, mode=0o777, target=target)
        self._put(entry, why)

    def add_file(
        self,
        path: str,
        source: Path | bytes,
        *,
        why: str,
        mode: int | None = None,
        owner: tuple[int, int] = (0, 0),
        executable: bool = False,
        strict: bool = False,
        autodep: bool = True,
        strip: bool = False,
        inherited: tuple[SearchFolder, ...] = (),
    ) -> None:
        """Add a file.

        Args:
            path: in the new root.
            source: on this host, or the content itself.
            why: which part of the bill asked for it.
            mode: permission bits; None for 0755 or 0644.
            owner: user and group.
            executable: whether it is a program.
            strict: whether it is an error if a library that it needs is missing.
            autodep: whether the libraries that it needs come along.
            strip: leave out what no loader reads.
            inherited: RPATH of what loads it.
        """
        path = merged(path)
        elf, size = None, 0
        if isinstance(source, Path):
            size, reads_as_elf = looked_at(source)
            elf = source if reads_as_elf else None
        if elf is not None and strip:
            source = loaded_part(elf)
        if isinstance(source, bytes):
            size = len(source)
        if mode is None:
            mode = 0o755 if executable else 0o644
        uid, gid = owner
        entry = TreeEntry(
            path=path, kind=EntryKind.FILE, mode=mode, uid=uid, gid=gid, size=size, source=source
        )
        self._put(entry, why)
        if autodep and elf is not None:
            self._elves[path] = _Elf(source=elf, strict=strict or executable, inherited=inherited)

    def add_library(self, name: str, *, why: str, strict: bool) -> None:
        """Add a library that nothing names as needed, from where the loader always looks."""
        needs = host_needs()
        libraries = self._look_for(name, needs, ())
        if strict and not libraries:
            raise _no_library(why, "the bill", name, "a library where the loader searches")
        for found in libraries:
            if merged(found.target) not in self.entries:
                self.add_file(found.target, found.host, why=why, strict=strict)

    def add_libraries(self) -> None:
        """Bring along what every ELF file needs, until nothing new is needed.

        Then what the C library loads by name, and what that needs.
        """
        done: set[str] = set()
        self._close(done)
        for name, why in loaded_by_name(self.entries):
            self.add_library(name, why=why, strict=False)
        self._close(done)

    def _close(self, done: set[str]) -> None:
        queue = sorted(self._elves.keys() - done, reverse=True)
        while queue:
            path = queue.pop()
            done.add(path)
            for added in self._add_libraries_of(path, self._elves[path]):
                queue.append(added)

    def _searching(self) -> LibrarySearch:
        if self._search is None:
            configured = configured_folders()
            system = {real(folder) for folder in (*SYSTEM_FOLDERS, *configured)}
            within = tuple(sorted(self.sources | system))
            self._search = LibrarySearch(within=within, configured=configured)
        return self._search

    def _add_libraries_of(self, path: str, elf: _Elf) -> Iterator[str]:
        try:
            needs = read_needs(elf.source)
        except MalformedError as error:
            if elf.strict:
                raise MalformedError(
                    error.code, f"{self._asked_by(path)}: {error.message}", field=error.field,
                    expected=error.expected, got=error.got, remedy=error.remedy,
                ) from error  # fmt: skip
            self.warnings.append(str(error))
            return
        if needs.interpreter:
            self._add_loader(
                path, self._searching().loader(needs), needs.interpreter, strict=elf.strict
            )
        origin, target = real(elf.source).parent, path.rpartition("/")[0]
        own = expand_folders(needs.rpath, origin=origin, target=target)
        if needs.runpath is None:
            folders = (*own, *elf.inherited)
        else:
            folders = expand_folders(needs.runpath, origin=origin, target=target)
        for name in needs.needed:
            libraries = self._look_for(name, needs, folders)
            if not libraries:
                self._missing_library(name, path, strict=elf.strict)
            for found in libraries:
                place = merged(found.target)
                if place not in self.entries:
                    self.add_file(
                        place, found.host, why=f"library{OF}{path}", strict=elf.strict,
                        strip=name.startswith("libpython"), inherited=(*own, *elf.inherited),
                    )  # fmt: skip
                    yield place

    def _look_for(
        self, name: str, needs: ElfNeeds, folders: tuple[SearchFolder, ...]
    ) -> tuple[Library, ...]:
        """A library and its variants; what many files need is looked for once."""
        key = (name, needs.machine, needs.bits, folders)
        if key not in self._found:
            library = self._searching().find(name, needs=needs, folders=folders)
            found = () if library is None else self._searching().variants(library, needs)
            self._found[key] = () if library is None else (library, *found)
        return self._found[key]

    def _add_loader(self, path: str, loader: Library | None, name: str, *, strict: bool) -> None:
        if loader is not None:
            self.add_file(
                loader.target, loader.host, why=f"loader{OF}{path}", executable=True, autodep=False
            )
        elif strict:
            raise _no_library(self._asked_by(path), path, name, "a loader of this host's own")
        else:
            self.warnings.append(f"{path} names a loader that isn't this host's own: {name}")

    def _missing_library(self, name: str, path: str, *, strict: bool) -> None:
        if any(entry.rsplit("/", 1)[-1] == name for entry in self.entries):
            return  # loaded by somebody else's hand, as bundled libraries are
        if strict:
            where = self._asked_by(path)
            raise _no_library(where, path, name, "a library where the loader searches")
        self.warnings.append(f"{path} needs {name}, which isn't where its libraries may be from")

    def _asked_by(self, path: str) -> str:
        """The part of the bill for whose sake a path is in the tree."""
        while OF in (why := self.why[path]) and (above := why.partition(OF)[2]) in self.why:
            path = above
        return why

    def finish(self) -> Assembly:
        """The tree, with the folders that nobody asked for by name."""
        for name in _MERGED:
            if any(path.startswith(f"usr/{name}/") for path in self.entries):
                link = TreeEntry(
                    path=name, kind=EntryKind.SYMLINK, mode=0o777, target=f"usr/{name}"
                )
                self.entries[name], self.why[name] = link, "merged layout"
        seen: set[str] = set()
        for path in list(self.entries):
            parent = path.rpartition("/")[0]
            while parent and parent not in seen:
                seen.add(parent)
                self.add_folder(parent, why=self.why[path])
                parent = parent.rpartition("/")[0]
        self._check_parents()
        entries = tuple(self.entries[path] for path in sorted(self.entries))
        return Assembly(
            entries=entries, why=MappingProxyType(self.why), warnings=tuple(self.warnings)
        )

    def _check_parents(self) -> None:
        for path, entry in self.entries.items():
            parent = path.rpartition("/")[0]
            above = self.entries.get(parent)
            if above is not None and above.kind is not EntryKind.DIRECTORY:
                raise UsageError(
                    "image.tree",
                    f"{self._asked_by(path)}: {entry.path} can't be sealed: {parent} is no folder",
                    field=entry.path,
                    expected="a parent that is a directory",
                    got=f"a {above.kind.value}, by {self._asked_by(parent)}",
                    remedy="Leave one of the two out of the bill.",
                )

    def _put(self, entry: TreeEntry, why: str) -> None:
        # Later entries win; a folder never takes the place of its own content.
        self.entries[entry.path], self.why[entry.path] = entry, why
        self._elves.pop(entry.path, None)


def relative(path: str, where: str) -> str:
    """A path of the new root, without its leading slash; ``where`` it stands in a bill."""
    return join("", path.lstrip("/"), where)


def join(base: str, name: str, where: str) -> str:
    """A name in a folder of the new root.

    Raises:
        MalformedError: ``bom.malformed`` where it leads out of the new root, or may.
    """
    if ".." in name.split("/") or "\0" in name:
        raise MalformedError(
            "bom.malformed",
            f"{where}: the path {name!r} leads out of the new root, or may do so",
            field="path",
            expected="a path without '..'",
            got=name,
        )
    joined = os.path.normpath(f"{base}/{name}").strip("/")
    return "" if joined == "." else joined


def merged(path: str) -> str:
    """Where a path really is, as ``/lib`` and its like are links into ``/usr``."""
    first, _, rest = path.partition("/")
    return f"usr/{path}" if first in _MERGED and rest else path


def real(path: str | Path) -> Path:
    """A path of this host without links."""
    return Path(os.path.realpath(path))


def is_program(path: Path) -> bool:
    """Whether somebody may execute it."""
    return bool(path.stat().st_mode & 0o111)


def check_hash(path: Path, expected: str, where: str) -> None:
    """A file's SHA-256 must be the bill's.

    Raises:
        UsageError: ``bom.hash``.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise UsageError(
            "bom.hash",
            f"{where}: {path} is another file than the bill means",
            field="hash",
            expected=expected,
            got=digest,
            remedy="Get the right file, or correct the bill if the change is meant.",
        )


def missing(where: str, path: str, expected: str, *, got: str = "nothing") -> UsageError:
    """What the bill names and isn't there, or is something else."""
    return UsageError(
        "bom.missing",
        f"{where}: {path} isn't " + ("there" if got == "nothing" else "what the bill means"),
        field=path,
        expected=expected,
        got=got,
        remedy="Install it, or correct the bill.",
    )


@contextmanager
def reading(where: str) -> Iterator[None]:
    """Within, what the bill asks for at ``where`` is read.

    Raises:
        UsageError: ``bom.missing`` in place of what the operating system says.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            "bom.missing",
            f"{where}: {error.filename or 'a file'} can't be read",
            field=str(error.filename or where),
            expected="files and folders that whoever runs this may read",
            got=error.strerror or str(error),
            remedy="Give the right to read it, run this as somebody who has it, or correct the "
            "bill.",
        ) from error


def _no_library(where: str, path: str, name: str, expected: str) -> UsageError:
    return UsageError(
        "bom.library",
        f"{where}: {path} needs {name}, which isn't where its libraries may be from",
        field=path,
        expected=f"{name}: {expected}, in {', '.join(SYSTEM_FOLDERS)} or a folder of the bill",
        got="nothing",
        remedy="Install the package that has it, name its folder as 'from' of a copy, or say "
        "autodep: false.",
    )
