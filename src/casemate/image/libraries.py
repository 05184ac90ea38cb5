"""Where the shared libraries lie that ELF files need, found as the loader would find them.

Nothing is run (`casemate.image.elf`).

Source: ld.so(8).
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from casemate.image.elf import ElfNeeds, identity
from casemate.image.places import is_below

# e_machine: its name, Debian's folder for it, and everybody else's.
_MACHINES = {
    62: ("EM_X86_64", "x86_64-linux-gnu", "lib64"),
    183: ("EM_AARCH64", "aarch64-linux-gnu", "lib64"),
}
# Subfolders in which the loader first looks, on processors that have these features.
_FEATURES = {62: ("x86-64-v4", "x86-64-v3", "x86-64-v2")}
_LOADER_CONFIGURATION = Path("/etc/ld.so.conf")
_MAX_INCLUDES = 4


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
        # As to the loader, what can't be looked at is absent: a RUNPATH may name the home of who
        # built the file, where `Path.exists` would raise.
        if not os.path.exists(path):  # noqa: PTH110  most are looked for in vain
            return None
        real = Path(os.path.realpath(path))
        inside = any(is_below(str(real), str(folder)) for folder in self.within)
        if not inside or not os.path.isfile(real):  # noqa: PTH113
            return None
        try:
            with real.open("rb", buffering=0) as file:
                fits = identity(file.read(20)) == (needs.machine, needs.bits)
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
