"""What an ELF file needs, found by reading; nothing is ever run.

``ldd`` and the dynamic loader execute code from the file they look at (an ELF file names its own
interpreter, and may name an auditing library), so neither is used here. Where what is needed lies
is `casemate.image.libraries`' to find.

Source: System V ABI, "Dynamic Linking".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import NamedTuple

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.structs import ELFStructs

from casemate.errors import MalformedError

_MAGIC = b"\x7fELF"
_MAX_SEGMENTS = 4096
_MAX_TAGS = 16384
_MAX_LIBRARIES = 4096
_MAX_NAME = 4096
_PAGE = 4096
_TAGS_AT_ONCE = 128


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


def is_elf(path: Path) -> bool:
    """Whether a file starts like an ELF file."""
    return looked_at(path)[1]


def looked_at(path: Path) -> tuple[int, bool]:
    """A file's size, and whether it starts like an ELF file: in one go, for every file is asked."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fstat(descriptor).st_size, os.read(descriptor, len(_MAGIC)) == _MAGIC
    finally:
        os.close(descriptor)


def read_needs(path: Path) -> ElfNeeds:
    """Read what an ELF file needs.

    Raises:
        MalformedError: ``image.elf`` where it can't be parsed.
    """
    try:
        with path.open("rb", buffering=0) as file:
            return _needs(_Reading(file))
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
        with path.open("rb", buffering=0) as file:
            reading = _Reading(file)
            end = _end_of_segments(reading)
            content = bytearray(reading.exactly(0, end))
    except _ELF_ERRORS as error:
        raise _malformed(path, error) from error
    offset, counts, width = _SECTIONS[content[4]]
    content[offset : offset + width] = bytes(width)  # e_shoff
    content[counts : counts + 4] = bytes(4)  # e_shnum, e_shstrndx
    return bytes(content)


def _end_of_segments(reading: _Reading) -> int:
    """Where the last of what a loader reads ends. By hand: this is done for every module.

    Source: System V ABI, "ELF Header", "Program Header".
    """
    head = reading.some(0, 64)
    order = "<" if head[5] == 1 else ">"
    if head[4] == 2:
        table, size, count = struct.unpack_from(f"{order}32xQ14xHH6x", head)
        fields, end = f"{order}8xQ16xQ", 64
    else:
        table, size, count = struct.unpack_from(f"{order}28xI10xHH6x", head)
        fields, end = f"{order}4xI8xI", 52
    if head[4] not in _SECTIONS or size < struct.calcsize(fields) or not 0 < count <= _MAX_SEGMENTS:
        raise ValueError("no table of segments that can be read")
    segments = reading.exactly(table, size * count)
    end = max(end, int(table) + len(segments))
    for at in range(0, len(segments), size):
        begin, length = struct.unpack_from(fields, segments, at)
        end = max(end, int(begin + length))
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


def identity(head: bytes) -> tuple[int, int]:
    """Machine and bits, by the first 20 bytes of a file; zeros where it isn't ELF."""
    if len(head) < 20 or head[:4] != _MAGIC:
        return 0, 0
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return machine, {1: 32, 2: 64}.get(head[4], 0)


# By e_ident's class: where e_shoff is, where e_shnum and e_shstrndx are, e_shoff's width.
_SECTIONS = {1: (0x20, 0x30, 4), 2: (0x28, 0x3C, 8)}


def host_needs() -> ElfNeeds:
    """What a file for this host that needs nothing asks for."""
    machine = {"x86_64": 62, "aarch64": 183}.get(os.uname().machine, 0)
    return ElfNeeds(
        machine=machine, bits=64, interpreter="", soname="", needed=(), rpath=(), runpath=None
    )


class _Reading:
    """A file of which few places are read; most lie in its first page, which is read just once."""

    def __init__(self, file: FileIO) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        self._head = os.pread(self._descriptor, _PAGE, 0)

    def some(self, at: int, size: int) -> bytes:
        """Bytes at a place; fewer where the file ends."""
        if at + size <= len(self._head):
            return self._head[at : at + size]
        return os.pread(self._descriptor, size, at)

    def exactly(self, at: int, size: int) -> bytes:
        """Bytes at a place, all of them."""
        if at + size > self._size:  # before memory is taken for what isn't there
            raise ValueError("the file ends before its segments do")
        data = self.some(at, size)
        while len(data) < size:
            more = os.pread(self._descriptor, size - len(data), at + len(data))
            if not more:
                raise ValueError("the file has become shorter")
            data += more
        return data

    def text(self, at: int) -> str:
        """The text at a place, up to its NUL."""
        text, end, _ = self.some(at, _MAX_NAME + 1).partition(b"\0")
        if not end:
            raise ValueError(f"a name of more than {_MAX_NAME} bytes, or without an end")
        return text.decode()


class _Segment(NamedTuple):
    """A segment. Its kind is pyelftools' name for it, or a number where that has none."""

    kind: str | int
    offset: int
    address: int
    size: int


class _Tag(NamedTuple):
    """An entry of the dynamic section; its kind as a segment's."""

    kind: str | int
    value: int


@lru_cache(maxsize=64)
def _structures(
    bits: int, *, little: bool, machine: str | None = None, system: str | None = None
) -> ELFStructs:
    """The structures for a kind of file. To make them takes longer than to read one with them."""
    structures = ELFStructs(little_endian=little, elfclass=bits)
    structures.create_basic_structs()
    structures.create_advanced_structs(None, machine, system)
    return structures


def _needs(reading: _Reading) -> ElfNeeds:
    """Read segments, the dynamic section and the names that it means.

    Sections aren't looked at: no loader reads them, and they may say anything.
    """
    head = reading.exactly(0, 20)
    machine, bits = identity(head)
    if not bits or head[5] not in (1, 2):
        raise ValueError("neither 32 nor 64 bits, or of no byte order")
    structures, segments = _segments(reading, bits, little=head[5] == 1)
    interpreter, needed, soname = "", [], ""
    runpath: tuple[str, ...] | None = None
    rpath: tuple[str, ...] = ()
    for segment in segments:
        if segment.kind == "PT_INTERP":
            interpreter = reading.text(segment.offset)
        elif segment.kind == "PT_DYNAMIC" and segment.size:
            tags = tuple(_tags(reading, structures, segment.offset))
            names = _table_of_names(tags, segments)
            for kind, value in tags:
                match kind:
                    case "DT_NEEDED":
                        needed.append(reading.text(names + value))
                    case "DT_SONAME":
                        soname = reading.text(names + value)
                    case "DT_RUNPATH":
                        runpath = _folders(reading.text(names + value))
                    case "DT_RPATH":
                        rpath = _folders(reading.text(names + value))
            if len(needed) > _MAX_LIBRARIES:
                raise ValueError("more libraries than any file needs")
    return ElfNeeds(
        machine=machine,
        bits=bits,
        interpreter=interpreter,
        soname=soname,
        needed=tuple(needed),
        rpath=rpath if runpath is None else (),
        runpath=runpath,
    )


def _segments(
    reading: _Reading, bits: int, *, little: bool
) -> tuple[ELFStructs, tuple[_Segment, ...]]:
    plain = _structures(bits, little=little)
    head = reading.exactly(0, plain.Elf_Ehdr.sizeof())
    header = struct_parse(plain.Elf_Ehdr, BytesIO(head))
    machine, system = _name(header.e_machine), _name(header.e_ident.EI_OSABI)
    structures = _structures(bits, little=little, machine=machine, system=system)
    size, count = structures.Elf_Phdr.sizeof(), header.e_phnum
    # No loader takes a table whose entries have another size.
    if count > _MAX_SEGMENTS or (count and header.e_phentsize != size):
        raise ValueError("more segments than any file needs, or of another size")
    table = BytesIO(reading.exactly(header.e_phoff, count * size))
    found = (struct_parse(structures.Elf_Phdr, table) for _ in range(count))
    return structures, tuple(
        _Segment(each.p_type, each.p_offset, each.p_vaddr, each.p_filesz) for each in found
    )


def _name(value: str | int) -> str | None:
    return value if isinstance(value, str) else None


def _tags(reading: _Reading, structures: ELFStructs, start: int) -> Iterator[_Tag]:
    """The dynamic section's entries up to the one that ends it, wherever its segment ends."""
    size = structures.Elf_Dyn.sizeof()
    for first in range(0, _MAX_TAGS, _TAGS_AT_ONCE):
        entries = BytesIO(reading.some(start + first * size, _TAGS_AT_ONCE * size))
        for _ in range(_TAGS_AT_ONCE):
            tag = struct_parse(structures.Elf_Dyn, entries)
            if tag.d_tag == "DT_NULL":
                return
            yield _Tag(tag.d_tag, tag.d_val)
    raise ValueError("more tags than any file needs")


def _table_of_names(tags: tuple[_Tag, ...], segments: tuple[_Segment, ...]) -> int:
    """Where in the file the table is in which names have their places."""
    addresses = [tag.value for tag in tags if tag.kind == "DT_STRTAB"]
    for segment in segments:
        begin, end = segment.address, segment.address + segment.size
        if addresses and segment.kind == "PT_LOAD" and begin <= addresses[0] < end:
            return addresses[0] - begin + segment.offset
    raise ValueError("no table of names")


def _folders(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(":") if part)
