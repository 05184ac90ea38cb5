"""Which shared libraries an ELF file needs, found by reading; nothing is ever run.

``ldd`` and the dynamic loader execute code from the file they look at (an ELF file may name an
auditing library), so neither is used here.

Source: System V ABI, "Dynamic Linking"; ld.so(8).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment, DynamicTag
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from casemate.errors import MalformedError

_MAGIC = b"\x7fELF"
_MACHINES = {
    "EM_X86_64": ("x86_64-linux-gnu", "lib64"),
    "EM_AARCH64": ("aarch64-linux-gnu", "lib"),
}
_MAX_LIBRARIES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ElfNeeds:
    """What an ELF file asks of the dynamic loader.

    Args:
        machine: ``e_machine`` by name.
        bits: 32 or 64.
        interpreter: the loader that the program names; empty for a library.
        soname: the library's own name; empty for a program.
        needed: names of libraries, in order.
        search: RUNPATH, or where there is none RPATH, unexpanded.
    """

    machine: str
    bits: int
    interpreter: str
    soname: str
    needed: tuple[str, ...]
    search: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library that was found.

    Args:
        name: as it was asked for.
        host: where it is on this host.
        relative: its place relative to the folder of the file that needs it, where it was found
            through ``$ORIGIN``; empty where it belongs into the default folder.
    """

    name: str
    host: Path
    relative: str


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
            return _parse(ELFFile(file))
    except (
        ELFError, ValueError, KeyError, IndexError, OverflowError, TypeError, AttributeError,
        AssertionError, RecursionError, MemoryError, UnicodeError,
    ) as error:  # fmt: skip
        raise MalformedError(
            "image.elf",
            f"{path} looks like an ELF file and can't be read as one",
            field=str(path),
            expected="an ELF file of this architecture",
            got=f"{type(error).__name__}: {error}"[:200],
        ) from error


def _text(tag: DynamicTag, name: str) -> str:
    # pyelftools sets these names on a tag according to its kind.
    value = getattr(tag, name)
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _parse(elf: ELFFile) -> ElfNeeds:
    interpreter, needed, soname = "", [], ""
    runpath: list[str] | None = None
    rpath: list[str] = []
    for segment in elf.iter_segments():
        if isinstance(segment, InterpSegment):
            interpreter = segment.get_interp_name()
        elif isinstance(segment, DynamicSegment):
            for tag in segment.iter_tags():
                match tag.entry.d_tag:
                    case "DT_NEEDED":
                        needed.append(_text(tag, "needed"))
                    case "DT_SONAME":
                        soname = _text(tag, "soname")
                    case "DT_RUNPATH":
                        runpath = _text(tag, "runpath").split(":")
                    case "DT_RPATH":
                        rpath = _text(tag, "rpath").split(":")
                if len(needed) > _MAX_LIBRARIES:
                    raise ValueError("more libraries than any file needs")
    return ElfNeeds(
        machine=str(elf.header.e_machine),
        bits=elf.elfclass,
        interpreter=interpreter,
        soname=soname,
        needed=tuple(needed),
        search=tuple(part for part in (runpath if runpath is not None else rpath) if part),
    )


def default_folders(machine: str) -> tuple[str, ...]:
    """Where the loader looks without being told, in order; also on Debian's multiarch."""
    triplet, wide = _MACHINES.get(machine, ("", "lib64"))
    folders = [f"/lib/{triplet}", f"/usr/lib/{triplet}"] if triplet else []
    return (*folders, f"/{wide}", f"/usr/{wide}", "/lib", "/usr/lib")


def library_folder(machine: str) -> str:
    """The default folder that libraries are put into, relative to the new root."""
    triplet, wide = _MACHINES.get(machine, ("", "lib64"))
    return f"usr/lib/{triplet}" if triplet else f"usr/{wide}"


def find_library(
    name: str, *, needs: ElfNeeds, origin: Path, inherited: Iterable[Path] = ()
) -> Library | None:
    """Find a needed library on this host, in the loader's order.

    Args:
        name: as DT_NEEDED gives it.
        needs: of the file that needs it.
        origin: the folder of that file, which ``$ORIGIN`` means.
        inherited: folders named by the programs that load that file (their RPATH).

    Returns:
        None where it isn't to be found.
    """
    if "/" in name:
        path = Path(name)
        return Library(name=name, host=path, relative="") if _fits(path, needs) else None
    for folder in needs.search:
        expanded = folder.replace("${ORIGIN}", "$ORIGIN")
        host = Path(os.path.normpath(expanded.replace("$ORIGIN", str(origin)))) / name
        if _fits(host, needs):
            by_origin = expanded.startswith("$ORIGIN")
            relative = os.path.normpath(expanded.replace("$ORIGIN", ".", 1)) + f"/{name}"
            return Library(name=name, host=host, relative=relative if by_origin else "")
    for path in (
        *inherited,
        *map(Path, configured_folders()),
        *map(Path, default_folders(needs.machine)),
    ):
        if _fits(path / name, needs):
            return Library(name=name, host=path / name, relative="")
    return None


@lru_cache(maxsize=1)
def configured_folders(configuration: Path = Path("/etc/ld.so.conf")) -> tuple[str, ...]:
    """The folders that ``ld.so.conf`` names, with its includes."""
    return tuple(_configured(configuration, depth=0))


def _configured(path: Path, *, depth: int) -> Iterator[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        words = line.split("#", 1)[0].split()
        if words[:1] == ["include"] and depth < 4:
            for pattern in words[1:]:
                base = Path(pattern) if pattern.startswith("/") else path.parent / pattern
                for file in sorted(base.parent.glob(base.name)):
                    yield from _configured(file, depth=depth + 1)
        elif words and words[0].startswith("/"):
            yield words[0]


@lru_cache(maxsize=8192)
def _header(path: Path) -> tuple[str, int] | None:
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError:
        return None
    if len(head) < 20 or head[:4] != _MAGIC:
        return None
    order = "little" if head[5] == 1 else "big"
    number = int.from_bytes(head[18:20], "little" if order == "little" else "big")
    names = {62: "EM_X86_64", 183: "EM_AARCH64", 3: "EM_386"}
    return names.get(number, str(number)), {1: 32, 2: 64}.get(head[4], 0)


def _fits(path: Path, needs: ElfNeeds) -> bool:
    """A library of another architecture is passed over, as the loader does."""
    return _header(path) == (needs.machine, needs.bits)
