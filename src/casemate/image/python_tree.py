"""A Python interpreter as part of a tree: standard library, packages, compiled ahead of time.

Nothing of the input runs: packages are read by their installation records, sources are compiled
and not imported.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import marshal
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import casemate
from casemate.errors import UsageError
from casemate.image.bom.grammar import PythonItem

_HASH_BASED_UNCHECKED = (1).to_bytes(4, "little")
_SKIPPED = {"__pycache__", "site-packages", "dist-packages"}
_NOT_MINIMAL = {
    "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data",
    "venv", "distutils",
}  # fmt: skip
_NOT_MINIMAL_FILES = ("turtle.py", "lib-dynload/_test*", "lib-dynload/_tkinter*", "config-3*/*")
_NOT_IN_PACKAGES = ("*.pyi", "*.pyx", "*.pxd", "*.h", "*.hpp", "*.c", "*.a", "*.lib", "*/tests/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonFile:
    """A file of the Python tree.

    Args:
        path: in the new root, relative.
        source: on this host, or the content itself.
        executable: whether it is a program.
        why: which part of the bill asked for it.
    """

    path: str
    source: Path | bytes
    executable: bool
    why: str


def python_files(item: PythonItem) -> Iterator[PythonFile]:
    """Everything that the bill's ``python`` section asks for.

    Raises:
        UsageError: ``bom.python`` where a distribution or module isn't there.
    """
    interpreter = _interpreter(item)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    yield PythonFile(path="usr/bin/python3", source=interpreter, executable=True, why="interpreter")
    standard = Path(sysconfig.get_path("stdlib"))
    packages = _packages_folder(standard, version)
    for file in _compiled(_standard_library(standard, item, f"usr/lib/{version}")):
        yield file
    for file in _compiled(_distributions(item, packages)):
        yield file
    for file in _compiled(_modules(item, packages)):
        yield file


def _interpreter(item: PythonItem) -> Path:
    ours = Path(os.path.realpath(sys.executable))
    if item.interpreter != "auto" and Path(os.path.realpath(item.interpreter)) != ours:
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
    return (
        "usr/lib/python3/dist-packages"
        if "dist-packages" in site
        else (f"usr/lib/{version}/site-packages")
    )


def _standard_library(standard: Path, item: PythonItem, target: str) -> Iterator[PythonFile]:
    minimal = item.stdlib == "minimal"
    for path in _walk(standard, _SKIPPED | (_NOT_MINIMAL if minimal else set())):
        relative = path.relative_to(standard).as_posix()
        if minimal and any(fnmatch.fnmatch(relative, pattern) for pattern in _NOT_MINIMAL_FILES):
            continue
        if path.suffix not in {".py", ".so", ".txt"} and minimal:
            continue
        # Debian's has links: to files elsewhere in /usr, which count, and to this host's own
        # settings in /etc, which don't.
        real = Path(os.path.realpath(path))
        if real.is_file() and not real.is_relative_to("/etc"):
            yield PythonFile(
                path=f"{target}/{relative}", source=real, executable=False, why="standard library"
            )


def _distributions(item: PythonItem, target: str) -> Iterator[PythonFile]:
    for name in item.distributions:
        try:
            files = metadata.distribution(name).files
        except metadata.PackageNotFoundError as error:
            raise UsageError(
                "bom.python",
                f"{item.where}: the distribution {name} is not installed here",
                field="python.distributions",
                expected="an installed distribution",
                got=name,
                remedy=f"Install it into this environment: pip install {name}",
            ) from error
        for file in files or ():
            relative = file.as_posix()
            host = Path(str(file.locate()))
            if ".." in file.parts or "__pycache__" in file.parts or not host.is_file():
                continue
            if not _excluded(relative, item):
                yield PythonFile(
                    path=f"{target}/{relative}", source=host, executable=False,
                    why=f"distribution {name}",
                )  # fmt: skip


def _modules(item: PythonItem, target: str) -> Iterator[PythonFile]:
    base = Path(casemate.__file__).parent.parent
    for module in item.modules:
        start = base / module
        if not start.exists() or ".." in Path(module).parts:
            raise UsageError(
                "bom.python",
                f"{item.where}: there's no module {module}",
                field="python.modules",
                expected=f"a file or folder below {base}",
                got=module,
            )
        for path in _walk(start, {"__pycache__"}) if start.is_dir() else (start,):
            relative = path.relative_to(base).as_posix()
            if not _excluded(relative, item):
                yield PythonFile(
                    path=f"{target}/{relative}", source=path, executable=False,
                    why=f"module {module}",
                )  # fmt: skip


def _excluded(relative: str, item: PythonItem) -> bool:
    return any(
        fnmatch.fnmatchcase(relative, pattern) for pattern in (*_NOT_IN_PACKAGES, *item.excludes)
    )


def _walk(folder: Path, skipped: set[str]) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(files):
            yield Path(where) / name


def _compiled(files: Iterator[PythonFile]) -> Iterator[PythonFile]:
    """Every file, and beside each source its bytecode, so that no start compiles anything."""
    for file in files:
        yield file
        if file.path.endswith(".py") and isinstance(file.source, Path):
            code = _bytecode(file.source, "/" + file.path)
            if code is not None:
                folder, name = file.path.rsplit("/", 1)
                cached = f"{name[:-3]}.{sys.implementation.cache_tag}.pyc"
                yield PythonFile(
                    path=f"{folder}/__pycache__/{cached}", source=code, executable=False,
                    why=file.why,
                )  # fmt: skip


def _bytecode(source: Path, name: str) -> bytes | None:
    """The bytecode of a source file; the same bytes on every machine for the same source.

    Version 2 of marshal's format has no references, whose presence depends on chance; the
    hash-based header has no time.
    """
    text = source.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(text, name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError):
        return None  # templates and tests of other versions; whoever imports them sees the error
    header = importlib.util.MAGIC_NUMBER + _HASH_BASED_UNCHECKED + importlib.util.source_hash(text)
    return header + marshal.dumps(code, 2)
