"""A Python interpreter as part of a tree: standard library, packages, compiled ahead of time.

Nothing of the input runs: packages are read by their installation records, sources are compiled
and not imported.
"""

from __future__ import annotations

import ast
import csv
import fnmatch
import json
import os
import posixpath
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import casemate
from casemate.errors import UsageError
from casemate.image.bom.grammar import PythonItem
from casemate.image.compiling import compiled
from casemate.image.places import RealPlaces, is_below
from casemate.image.python_packages import VERSION, with_packages

_SKIPPED = {"__pycache__", "site-packages", "dist-packages"}
_NOT_MINIMAL = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data",
    "venv", "distutils", "curses", "dbm",
}  # fmt: skip
_NOT_MINIMAL_FILES = (
    "turtle.py", "_distutils_system_mod.py", "lib-dynload/*test*", "lib-dynload/_tkinter*",
    "lib-dynload/xxlimited*", "lib-dynload/_curses*", "lib-dynload/readline*",
    "lib-dynload/_dbm*", "lib-dynload/_gdbm*", "lib-dynload/nis*", "lib-dynload/ossaudiodev*",
)  # fmt: skip
_NOT_IN_PACKAGES = (
    "*.pyi", "*.pyx", "*.pxd", "*.h", "*.hpp", "*.c", "*.cpp", "*.a", "*.lib", "*.pth",
    "tests/*", "*/tests/*",
)  # fmt: skip
# What a program may ask for at run time, and licences. The rest tells how and from where the
# package came onto this machine, or is a list of files that no longer holds.
_OF_RECORDS = re.compile(
    r"[^/]+\.dist-info/(METADATA|WHEEL|entry_points\.txt|top_level\.txt"
    r"|((licenses|license_files)/.*)|((LICEN[CS]E|COPYING|NOTICE|AUTHORS)[^/]*))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFile:
    """A file of the Python tree.

    Args:
        path: in the new root, relative.
        source: on this host, or the content itself.
        why: which part of the bill asked for it.
        root: the folder of this host that it is from, where libraries may be taken too.
        executable: whether it is a program.
        interpreters_own: whether it is compiled code of the interpreter itself.
    """

    path: str
    source: Path | bytes
    why: str
    root: Path
    executable: bool = False
    interpreters_own: bool = False


def python_files(item: PythonItem, warnings: list[str] | None = None) -> Iterator[PythonFile]:
    """Everything that the bill's ``python`` section asks for.

    Args:
        item: the section.
        warnings: gets what may be missing.

    Raises:
        UsageError: ``bom.python`` where a distribution or module isn't there or can't be taken,
            ``bom.outside`` where a file of one leads elsewhere.
    """
    version = VERSION
    item = with_packages(item)
    standard = Path(sysconfig.get_path("stdlib"))
    packages = _packages_folder(standard, version)
    files = (
        *_standard_library(standard, item, f"usr/lib/{version}"),
        *_distributions(item, packages, [] if warnings is None else warnings),
        *_modules(item, packages),
    )
    yield PythonFile(
        path="usr/bin/python3", source=_interpreter(item), executable=True, why="interpreter",
        root=_real(sys.base_prefix), interpreters_own=True,
    )  # fmt: skip
    yield from _with_bytecode(files)


def _interpreter(item: PythonItem) -> Path:
    ours = _real(sys.executable)
    if item.interpreter != "auto" and _real(item.interpreter) != ours:
        raise UsageError(
            "bom.python",
            f"{item.where}: another interpreter than the one that builds the image",
            field="python.interpreter",
            expected=str(ours),
            got=item.interpreter,
            remedy="Run casemate with that interpreter: sources are compiled for the running one.",
        )
    return ours


def _packages_folder(standard: Path, version: str) -> str:
    """Debian's own interpreter looks for packages elsewhere than everybody else's."""
    site = (standard / "site.py").read_text(encoding="utf-8", errors="replace")
    debian = "dist-packages" in site
    return "usr/lib/python3/dist-packages" if debian else f"usr/lib/{version}/site-packages"


def _standard_library(standard: Path, item: PythonItem, target: str) -> Iterator[PythonFile]:
    minimal = item.stdlib == "minimal"
    root = _real(sys.base_prefix)
    unwanted = (*item.excludes, *(_NOT_MINIMAL_FILES if minimal else ()))
    for relative, real in _walk(standard, _SKIPPED | (_NOT_MINIMAL if minimal else set())):
        if _matches(relative, unwanted) or _is_makefile(relative):
            continue
        if minimal and not relative.endswith((".py", ".so", ".txt")):
            continue
        # Debian's has links: to files elsewhere in /usr, which count, and to this host's own
        # settings in /etc (sitecustomize.py is one), which don't.
        source: Path | bytes = (place := Path(real))
        if not is_below(real, str(root)) or not place.is_file():
            continue
        if posixpath.basename(relative).startswith("_sysconfigdata"):
            source = _without_paths(place.read_bytes())
        yield PythonFile(
            path=f"{target}/{relative}", source=source, why="standard library", root=root,
            interpreters_own=relative.endswith(".so"),
        )  # fmt: skip


def _is_makefile(relative: str) -> bool:
    """What serves to build extensions, and says on which machine the interpreter was built."""
    return relative.startswith("config-") and relative.count("/") == 1


def _without_paths(source: bytes) -> bytes:
    """``_sysconfigdata``: how the interpreter was built, without the paths of the machine."""
    kept: dict[str, str | int] = {}
    try:
        for statement in ast.parse(source).body:
            if isinstance(statement, ast.Assign):
                values = ast.literal_eval(statement.value)
                kept = {
                    str(name): value
                    for name, value in sorted(values.items())
                    if isinstance(value, int) or (isinstance(value, str) and "/" not in value)
                }
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        kept = {}
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in kept.items())
    return f"build_time_vars = {{\n{lines}}}\n".encode()


def _distributions(item: PythonItem, target: str, warnings: list[str]) -> Iterator[PythonFile]:
    for name in item.distributions:
        found, files = _distribution(name, item)
        absent = []
        root = _real(str(found.locate_file("")))
        places = RealPlaces(root=str(root))
        for file in files:
            # As a path has it: no empty parts, none that mean nothing.
            parts = [part for part in file.split("/") if part not in ("", ".")]
            relative = "/".join(parts)
            if file[:1] in ("/", "") or ".." in parts or "__pycache__" in parts or "\0" in file:
                continue
            if _excluded(relative, item):
                continue
            source = Path(places.of(relative))
            if not source.exists():
                absent.append(relative)
            elif source.is_file():
                _check_inside(f"{root}/{relative}", source, root, item.where)
                yield PythonFile(
                    path=f"{target}/{relative}", source=source, why=f"distribution {name}",
                    root=root,
                )  # fmt: skip
        if absent:
            more = f", and {len(absent) - 1} more" if absent[1:] else ""
            warnings.append(
                f"{item.where}: the distribution {name} lacks what its record names: "
                f"{absent[0]}{more}"
            )


def _distribution(name: str, item: PythonItem) -> tuple[metadata.Distribution, tuple[str, ...]]:
    """An installed distribution, and its files as its record names them."""
    places = [item.packages] if item.packages else sys.path
    found = next(iter(metadata.distributions(name=name, path=places)), None)
    if found is None:
        raise UsageError(
            "bom.python",
            f"{item.where}: the distribution {name} is not installed here",
            field="python.distributions",
            expected="an installed distribution",
            got=name,
            remedy=f"Install it into this environment: pip install {name}",
        )
    files = _recorded(found)
    if files is None or _is_editable(found):
        raise UsageError(
            "bom.python",
            f"{item.where}: the distribution {name} is not installed as files of its own",
            field="python.distributions",
            expected="an installation with a record of its files, not an editable one",
            got=name,
            remedy="Install it from a wheel, or copy its folder by a target.",
        )
    return found, files


def _recorded(found: metadata.Distribution) -> tuple[str, ...] | None:
    """The files of a distribution; None where it has no record of them, or none to be read.

    Of a wheel's record by hand: it has thousands of lines, of which few are asked for.
    """
    try:
        record = found.read_text("RECORD")
        if record:
            return tuple(row[0] for row in csv.reader(record.splitlines()) if row)
        files = found.files
    except (csv.Error, ValueError):
        return None
    return None if files is None else tuple(file.as_posix() for file in files)


def _is_editable(found: metadata.Distribution) -> bool:
    try:
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        return bool(origin.get("dir_info", {}).get("editable"))
    except (ValueError, AttributeError, RecursionError):
        return False


def _modules(item: PythonItem, target: str) -> Iterator[PythonFile]:
    base = _real(Path(casemate.__file__).parent.parent)
    for module in item.modules:
        name, start = PurePosixPath(module), base / module
        if name.is_absolute() or ".." in name.parts or not start.exists():
            raise UsageError(
                "bom.python",
                f"{item.where}: there's no module {module}",
                field="python.modules",
                expected="a file or folder beside the casemate package, or in it",
                got=module,
            )
        for relative, real in _files_of_module(start, name):
            if not _excluded(relative, item):
                source = Path(real)
                _check_inside(f"{base}/{relative}", source, base, item.where)
                yield PythonFile(
                    path=f"{target}/{relative}", source=source, why=f"module {module}", root=base
                )


def _files_of_module(start: Path, name: PurePosixPath) -> Iterator[tuple[str, str]]:
    if not start.is_dir():
        yield name.as_posix(), str(_real(start))
        return
    for relative, real in _walk(start, {"__pycache__"}):
        yield (name / relative).as_posix(), real


def _check_inside(path: str, found: Path, root: Path, where: str) -> None:
    """What a path means, links followed, must lie in the folder that the bill names."""
    if not is_below(str(found), str(root)):
        raise UsageError(
            "bom.outside",
            f"{where}: {path} is a link that leads out of {root}",
            field=path,
            expected=f"a file in {root}",
            got=str(found),
            remedy="Install the package without links, or leave the file out by excludes.",
        )


def _excluded(relative: str, item: PythonItem) -> bool:
    first = relative.partition("/")[0]
    if first.endswith(".dist-info") and not _OF_RECORDS.fullmatch(relative):
        return True
    return _matches(relative, (*_NOT_IN_PACKAGES, *item.excludes))


def _matches(relative: str, patterns: tuple[str, ...]) -> bool:
    return _any_of(patterns).match(relative) is not None


@lru_cache(maxsize=64)
def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for all: thousands of files are held against dozens of patterns."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)")


def _real(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.realpath(path))


def _walk(folder: Path, skipped: set[str]) -> Iterator[tuple[str, str]]:
    """Files in a folder, in order: each one's path below it, and what that means, links followed.

    Links to folders are passed over, and folders that can't be listed.
    """
    pending = [("", str(_real(folder)))]
    while pending:
        prefix, where = pending.pop()
        try:
            with os.scandir(where) as listing:
                items = sorted(listing, key=lambda item: item.name)
        except OSError:
            continue
        folders = []
        for item in items:
            if not _leads_to_a_folder(item):
                # No link has led here, so a link itself is all that needs to be followed.
                real = os.path.realpath(item.path) if item.is_symlink() else item.path
                yield prefix + item.name, real
            elif not item.is_symlink() and item.name not in skipped:
                folders.append((f"{prefix}{item.name}/", item.path))
        pending.extend(reversed(folders))


def _leads_to_a_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a link to itself, or to where nobody may look
        return False


def _with_bytecode(files: tuple[PythonFile, ...]) -> Iterator[PythonFile]:
    """Every file, and beside each source its bytecode, so that no start compiles anything."""
    sources = (file for file in files if file.path.endswith(".py"))
    codes = iter(compiled((_text(file.source), "/" + file.path) for file in sources))
    for file in files:
        yield file
        code = next(codes) if file.path.endswith(".py") else None
        if code is not None:
            folder, _, name = file.path.rpartition("/")
            cached = f"{name[:-3]}.{sys.implementation.cache_tag}.pyc"
            yield PythonFile(
                path=f"{folder}/__pycache__/{cached}", source=code, why=file.why, root=file.root
            )


def _text(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()
