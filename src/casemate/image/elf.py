"""Which shared libraries an ELF file needs, found by reading; nothing is ever run.

``ldd`` and the dynamic loader execute code from the file they look at (an ELF file names its own
interpreter, and may name an auditing library), so neither is used here.

Source: System V ABI, "Dynamic Linking"; ld.so(8).
"""

from __future__ import annotations

import os
import posixpath
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment, DynamicTag
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment, Segment

from casemate.errors import MalformedError

_MAGIC = b"\x7fELF"
# e_machine: its name, Debian's folder for it, and everybody else's.
_MACHINES = {
    62: ("EM_X86_64", "x86_64-linux-gnu", "lib64"),
    183: ("EM_AARCH64", "aarch64-linux-gnu", "lib64"),
}
# Subfolders in which the loader first looks, on processors that have these features.
_FEATURES = {62: ("x86-64-v4", "x86-64-v3", "x86-64-v2")}
_LOADER_CONFIGURATION = Path("/etc/ld.so.conf")
_MAX_INCLUDES = 4
_MAX_SEGMENTS = 4096
_MAX_TAGS = 16384
_MAX_LIBRARIES = 4096
_MAX_NAME = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfNeeds:
    """What an ELF file asks of the dynamic loader.

    Args:
        machine: ``e_machine``, a number.
        bits: 32 or 64.
        interpreter: the loader that the program names; empty for a library.
        soname: the library's own name; empty for a program.
        needed: names of libraries, in order.
        rpath: folders for this file and what it loads, unexpanded; empty where there's a RUNPATH,
            as the loader then ignores them.
        runpath: folders for this file alone, unexpanded; None where the file has none.
    """

    machine: int
    bits: int
    interpreter: str
    soname: str
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFolder:
    """A folder in which the loader looks for a library.

    Args:
        host: where it is on this host.
        target: where its libraries belong in the new root, relative; None for the default folder.
    """

    host: Path
    target: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library that was found.

    Args:
        host: the file on this host, without links.
        target: its path in the new root, relative.
        folder: where on this host it was found, links not followed; None where it wasn't searched
            for.
    """

    host: Path
    target: str
    folder: Path | None = None


def is_elf(path: Path) -> bool:
    """Whether a file starts like an ELF file."""
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


def read_needs(path: Path) -> ElfNeeds:
    """Read what an ELF file needs.

    Raises:
        MalformedError: ``image.elf`` where it can't be parsed.
    """
    try:
        with path.open("rb") as file:
            machine, bits = _identity(file.read(20))
            return _parse(_opened(file), machine, bits)
    except _ELF_ERRORS as error:
        raise _malformed(path, error) from error


def loaded_part(path: Path) -> bytes:
    """An ELF file's content without what no loader reads.

    That is debug information, the symbol table for debuggers and the table of sections: much of a
    self-built interpreter, and full of the paths of the machine that built it.

    Raises:
        MalformedError: ``image.elf`` where it can't be parsed.
    """
    try:
        with path.open("rb") as file:
            content = bytearray(file.read())
        end = _end_of_segments(content)
    except _ELF_ERRORS as error:
        raise _malformed(path, error) from error
    offset, counts, width = _SECTIONS[content[4]]
    content[offset : offset + width] = bytes(width)  # e_shoff
    content[counts : counts + 4] = bytes(4)  # e_shnum, e_shstrndx
    return bytes(content[:end])


def _end_of_segments(content: bytearray) -> int:
    """Where the last of what a loader reads ends. By hand: this is done for every module.

    Source: System V ABI, "ELF Header", "Program Header".
    """
    order = "<" if content[5] == 1 else ">"
    if content[4] == 2:
        table, size, count = struct.unpack_from(f"{order}32xQ14xHH", content)
        fields = f"{order}8xQ16xQ"
    else:
        table, size, count = struct.unpack_from(f"{order}28xI10xHH", content)
        fields = f"{order}4xI8xI"
    if content[4] not in _SECTIONS or size < struct.calcsize(fields) or count > _MAX_SEGMENTS:
        raise ValueError("no table of segments that can be read")
    end = int(table + size * count)
    for at in range(table, end, size):
        begin, length = struct.unpack_from(fields, content, at)
        end = max(end, begin + length)
    if end > len(content):
        raise ValueError("the file ends before its segments do")
    return end


# What pyelftools lets through on files that are none.
_ELF_ERRORS = (
    ELFError, ValueError, KeyError, IndexError, OverflowError, TypeError, AttributeError,
    AssertionError, RecursionError, MemoryError, UnicodeError, OSError, struct.error,
)  # fmt: skip


def _malformed(path: Path, error: Exception) -> MalformedError:
    return MalformedError(
        "image.elf",
        f"{path} looks like an ELF file and can't be read as one",
        field=str(path),
        expected="an ELF file of this architecture",
        got=f"{type(error).__name__}: {error}"[:200],
    )


def _identity(head: bytes) -> tuple[int, int]:
    """Machine and bits of the first 20 bytes of a file; zeros where it isn't ELF."""
    if len(head) < 20 or head[:4] != _MAGIC:
        return 0, 0
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return machine, {1: 32, 2: 64}.get(head[4], 0)


class _WithoutSections:
    """A file whose header names no sections: no loader reads them, and they take time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        file.seek(0)
        self._head = bytearray(file.read(64))
        if len(self._head) == 64 and self._head[4] in _SECTIONS:
            offset, counts, width = _SECTIONS[self._head[4]]
            self._head[offset : offset + width] = bytes(width)
            self._head[counts : counts + 4] = bytes(4)
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        at = self._file.tell()
        data = self._file.read(size)
        covered = self._head[at : at + len(data)]
        return bytes(covered) + data[len(covered) :] if covered else data


# By e_ident's class: where e_shoff is, where e_shnum and e_shstrndx are, e_shoff's width.
_SECTIONS = {1: (0x20, 0x30, 4), 2: (0x28, 0x3C, 8)}


def _opened(file: IO[bytes]) -> ELFFile:
    # What it needs of a file are these three methods.
    return ELFFile(cast("IO[bytes]", _WithoutSections(file)))


def host_needs() -> ElfNeeds:
    """What a file for this host that needs nothing asks for."""
    machine = {"x86_64": 62, "aarch64": 183}.get(os.uname().machine, 0)
    return ElfNeeds(
        machine=machine, bits=64, interpreter="", soname="", needed=(), rpath=(), runpath=None
    )


def _segments(elf: ELFFile) -> Iterator[Segment]:
    if elf.num_segments() > _MAX_SEGMENTS:
        raise ValueError("more segments than any file needs")
    yield from elf.iter_segments()


def _text(tag: DynamicTag, name: str) -> str:
    # pyelftools sets these names on a tag according to its kind.
    value = getattr(tag, name)
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise TypeError(f"{name} is no text of at most {_MAX_NAME} characters")
    value.encode()
    return value


def _parse(elf: ELFFile, machine: int, bits: int) -> ElfNeeds:
    interpreter, needed, soname = "", [], ""
    runpath: tuple[str, ...] | None = None
    rpath: tuple[str, ...] = ()
    for segment in _segments(elf):
        if isinstance(segment, InterpSegment):
            interpreter = str(segment.get_interp_name())
        elif isinstance(segment, DynamicSegment):
            for count, tag in enumerate(segment.iter_tags()):
                match tag.entry.d_tag:
                    case "DT_NEEDED":
                        needed.append(_text(tag, "needed"))
                    case "DT_SONAME":
                        soname = _text(tag, "soname")
                    case "DT_RUNPATH":
                        runpath = _folders(_text(tag, "runpath"))
                    case "DT_RPATH":
                        rpath = _folders(_text(tag, "rpath"))
                if len(needed) > _MAX_LIBRARIES or count > _MAX_TAGS:
                    raise ValueError("more libraries or tags than any file needs")
    return ElfNeeds(
        machine=machine,
        bits=bits,
        interpreter=interpreter,
        soname=soname,
        needed=tuple(needed),
        rpath=rpath if runpath is None else (),
        runpath=runpath,
    )


def _folders(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(":") if part)


def library_folder(machine: int) -> str:
    """The folder that this host's loader always looks in, relative to the new root."""
    _, triplet, wide = _MACHINES.get(machine, ("", "", "lib64"))
    return f"usr/lib/{triplet}" if triplet and Path("/usr/lib", triplet).is_dir() else f"usr/{wide}"


def expand_folders(
    folders: tuple[str, ...], *, origin: Path, target: str
) -> tuple[SearchFolder, ...]:
    """RPATH or RUNPATH of a file as folders.

    A folder relative to the loader's working folder, and one with another token than ``$ORIGIN``,
    is passed over: what it means depends on the process.

    Args:
        folders: as the file gives them.
        origin: the folder on this host that ``$ORIGIN`` means.
        target: the folder of the file in the new root, relative.
    """
    found = []
    for folder in folders:
        text = folder.replace("${ORIGIN}", "$ORIGIN")
        if text == "$ORIGIN" or text.startswith("$ORIGIN/"):
            rest = text.removeprefix("$ORIGIN").lstrip("/")
            if "$" not in rest:
                # As in the new root, '..' ends at its top.
                there = posixpath.normpath(posixpath.join("/", target, rest)).lstrip("/")
                here = Path(os.path.normpath(origin / rest))
                found.append(SearchFolder(host=here, target=there))
        elif text.startswith("/") and "$" not in text:
            found.append(SearchFolder(host=Path(os.path.normpath(text)), target=None))
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class LibrarySearch:
    """Where libraries may be taken from.

    Args:
        within: folders of this host, without links. A library that lies, links followed, in none
            of them is as good as absent, wherever an ELF file points.
        configured: the folders of ``ld.so.conf``.
    """

    within: tuple[Path, ...]
    configured: tuple[str, ...]

    def find(
        self, name: str, *, needs: ElfNeeds, folders: tuple[SearchFolder, ...]
    ) -> Library | None:
        """Find a needed library on this host, in the loader's order.

        Args:
            name: as DT_NEEDED gives it.
            needs: of the file that needs it.
            folders: RPATH and RUNPATH that hold for that file, in order.

        Returns:
            None where it isn't to be found.
        """
        if "/" in name:  # the very file, not to be searched for
            return self._exactly(name, needs) if name.startswith("/") else None
        if name in ("", ".", ".."):
            return None
        default = library_folder(needs.machine)
        always = (*self.configured, *_default_folders(needs.machine))
        for folder in (*folders, *(SearchFolder(host=Path(f), target=None) for f in always)):
            host = self._fitting(folder.host / name, needs)
            if host is not None:
                target = default if folder.target is None else folder.target
                place = posixpath.join(target, name)
                return Library(host=host, target=place, folder=folder.host)
        return None

    def variants(self, library: Library, needs: ElfNeeds) -> tuple[Library, ...]:
        """The same library for processors that can do more, which the loader prefers there.

        Args:
            library: as it was found.
            needs: of the file that needs it.
        """
        if library.folder is None:
            return ()
        base, _, name = library.target.rpartition("/")
        found = []
        for features in _FEATURES.get(needs.machine, ()):
            below = f"glibc-hwcaps/{features}"
            host = self._fitting(library.folder / below / name, needs)
            if host is not None:
                found.append(Library(host=host, target=f"{base}/{below}/{name}"))
        return tuple(found)

    def loader(self, needs: ElfNeeds) -> Library | None:
        """The loader that a program names, if it is one of this host's own."""
        return self._exactly(needs.interpreter, needs) if needs.interpreter[:1] == "/" else None

    def _exactly(self, name: str, needs: ElfNeeds) -> Library | None:
        place = posixpath.normpath(name).lstrip("/")
        host = self._fitting(Path(name), needs)
        return None if host is None else Library(host=host, target=place)

    def _fitting(self, path: Path, needs: ElfNeeds) -> Path | None:
        """The file itself; None if it's elsewhere, no library, or another architecture's."""
        real = Path(os.path.realpath(path))
        inside = any(real.is_relative_to(folder) for folder in self.within)
        if not inside or not real.is_file():
            return None
        try:
            with real.open("rb") as file:
                fits = _identity(file.read(20)) == (needs.machine, needs.bits)
        except OSError:
            return None
        return real if fits else None


def _default_folders(machine: int) -> tuple[str, ...]:
    """Where the loader looks without being told, in order; also on Debian's multiarch."""
    _, triplet, wide = _MACHINES.get(machine, ("", "", "lib64"))
    folders = [f"/lib/{triplet}", f"/usr/lib/{triplet}"] if triplet else []
    return (*folders, f"/{wide}", f"/usr/{wide}", "/lib", "/usr/lib")


def configured_folders(configuration: Path = _LOADER_CONFIGURATION) -> tuple[str, ...]:
    """The folders that ``ld.so.conf`` names, with its includes."""
    return tuple(_configured(configuration, depth=0))


def _configured(path: Path, *, depth: int) -> Iterator[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split("#", 1)[0].split()
        if words[:1] == ["include"] and depth < _MAX_INCLUDES:
            for pattern in words[1:]:
                base = Path(pattern) if pattern.startswith("/") else path.parent / pattern
                for file in sorted(base.parent.glob(base.name)):
                    yield from _configured(file, depth=depth + 1)
        elif words and words[0].startswith("/"):
            yield words[0]
