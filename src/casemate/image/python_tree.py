"""A Python interpreter as part of a tree: standard library, packages, compiled ahead of time.

Nothing of the input runs: packages are read by their installation records, sources are compiled
and not imported.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import fnmatch
import hashlib
import importlib.util
import json
import marshal
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath

import casemate
from casemate.errors import UsageError
from casemate.image.bom.grammar import PythonItem
from casemate.image.cache import cache_folder
from casemate.image.python_packages import VERSION, with_packages

_HASH_BASED_UNCHECKED = (1).to_bytes(4, "little")
_DIGEST = 32
_MAX_SOURCE = 16 * 1024 * 1024
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
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_LINE_END = re.compile(rb"\r\n?|\n")
_PLAIN_CODECS = {"utf-8", "utf8", "ascii", "us-ascii", "latin-1", "latin1", "iso-8859-1"}


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


def python_files(item: PythonItem) -> Iterator[PythonFile]:
    """Everything that the bill's ``python`` section asks for.

    Raises:
        UsageError: ``bom.python`` where a distribution or module isn't there or can't be taken,
            ``bom.outside`` where a file of one leads elsewhere.
    """
    version = VERSION
    item = with_packages(item)
    standard = Path(sysconfig.get_path("stdlib"))
    packages = _packages_folder(standard, version)
    yield PythonFile(
        path="usr/bin/python3", source=_interpreter(item), executable=True, why="interpreter",
        root=_real(sys.base_prefix), interpreters_own=True,
    )  # fmt: skip
    yield from _compiled(_standard_library(standard, item, f"usr/lib/{version}"))
    yield from _compiled(_distributions(item, packages))
    yield from _compiled(_modules(item, packages))


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
    for path in _walk(standard, _SKIPPED | (_NOT_MINIMAL if minimal else set())):
        relative = path.relative_to(standard).as_posix()
        if _matches(relative, unwanted) or _is_makefile(relative):
            continue
        if path.suffix not in {".py", ".so", ".txt"} and minimal:
            continue
        # Debian's has links: to files elsewhere in /usr, which count, and to this host's own
        # settings in /etc (sitecustomize.py is one), which don't.
        real = _real(path)
        if not real.is_file() or not real.is_relative_to(root):
            continue
        source: Path | bytes = real
        if path.name.startswith("_sysconfigdata"):
            source = _without_paths(real.read_bytes())
        yield PythonFile(
            path=f"{target}/{relative}", source=source, why="standard library", root=root,
            interpreters_own=path.suffix == ".so",
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


def _distributions(item: PythonItem, target: str) -> Iterator[PythonFile]:
    for name in item.distributions:
        found = _distribution(name, item)
        root = _real(str(found.locate_file("")))
        for file in found.files or ():
            relative = file.as_posix()
            if file.is_absolute() or ".." in file.parts or "__pycache__" in file.parts:
                continue
            if _excluded(relative, item) or not (root / relative).is_file():
                continue
            yield PythonFile(
                path=f"{target}/{relative}", source=_inside(root / relative, root, item.where),
                why=f"distribution {name}", root=root,
            )  # fmt: skip


def _distribution(name: str, item: PythonItem) -> metadata.Distribution:
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
    if found.files is None or _is_editable(found):
        raise UsageError(
            "bom.python",
            f"{item.where}: the distribution {name} is not installed as files of its own",
            field="python.distributions",
            expected="an installation with a record of its files, not an editable one",
            got=name,
            remedy="Install it from a wheel, or copy its folder by a target.",
        )
    return found


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
        for path in _walk(start, {"__pycache__"}) if start.is_dir() else (start,):
            relative = path.relative_to(base).as_posix()
            if not _excluded(relative, item):
                yield PythonFile(
                    path=f"{target}/{relative}", source=_inside(path, base, item.where),
                    why=f"module {module}", root=base,
                )  # fmt: skip


def _inside(path: Path, root: Path, where: str) -> Path:
    """The file, links followed; they may not lead out of the folder that the bill names."""
    real = _real(path)
    if not real.is_relative_to(root):
        raise UsageError(
            "bom.outside",
            f"{where}: {path} is a link that leads out of {root}",
            field=str(path),
            expected=f"a file in {root}",
            got=str(real),
            remedy="Install the package without links, or leave the file out by excludes.",
        )
    return real


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


def _walk(folder: Path, skipped: set[str]) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in skipped)
        for name in sorted(files):
            yield Path(where) / name


def _compiled(files: Iterator[PythonFile]) -> Iterator[PythonFile]:
    """Every file, and beside each source its bytecode, so that no start compiles anything."""
    for file in files:
        yield file
        if file.path.endswith(".py"):
            text = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
            code = cached_bytecode(text, "/" + file.path)
            if code is not None:
                folder, name = file.path.rsplit("/", 1)
                cached = f"{name[:-3]}.{sys.implementation.cache_tag}.pyc"
                yield PythonFile(
                    path=f"{folder}/__pycache__/{cached}", source=code, why=file.why, root=file.root
                )


def cached_bytecode(text: bytes, name: str) -> bytes | None:
    """As `bytecode`, from the user's own cache where it is there: most of a build is compiling."""
    key = hashlib.sha256(importlib.util.MAGIC_NUMBER + name.encode() + b"\0" + text).hexdigest()
    try:
        path = cache_folder("bytecode") / key[:2] / key[2:]
        stored = path.read_bytes()
        if hashlib.sha256(stored[_DIGEST:]).digest() == stored[:_DIGEST]:
            return stored[_DIGEST:]
    except (OSError, RuntimeError):  # not there, or no home
        pass
    code = bytecode(text, name)
    if code is not None:
        with contextlib.suppress(OSError, RuntimeError):
            path = cache_folder("bytecode") / key[:2] / key[2:]
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_bytes(hashlib.sha256(code).digest() + code)
            part.replace(path)
    return code


def bytecode(text: bytes, name: str) -> bytes | None:
    """The bytecode of a source file; the same bytes on every machine for the same source.

    Version 2 of marshal's format has no references, whose presence depends on chance; the
    hash-based header has no time.

    Args:
        text: the source.
        name: its path in the new root, which tracebacks show.

    Returns:
        None for what doesn't compile, such as a template; whoever imports it sees the error.
    """
    if len(text) > _MAX_SOURCE or not _has_plain_codec(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(text, name, "exec", dont_inherit=True, optimize=0)
        body = marshal.dumps(code, 2)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None
    return (
        importlib.util.MAGIC_NUMBER
        + _HASH_BASED_UNCHECKED
        + importlib.util.source_hash(text)
        + body
    )


def _has_plain_codec(text: bytes) -> bool:
    """Whether the source names no codec, or one that is part of the interpreter.

    A codec is code: by its name alone it would be looked for and imported here.
    """
    for line in _LINE_END.split(text.removeprefix(codecs.BOM_UTF8), 2)[:2]:
        found = _COOKIE.match(line)
        if found:
            return found[1].decode("latin-1").lower().replace("_", "-") in _PLAIN_CODECS
    return True
