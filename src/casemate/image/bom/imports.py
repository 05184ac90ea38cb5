"""Which Python modules a tree's own modules import at once, and the tree hasn't.

Sources are parsed, never imported. Only imports count that always happen when a module is
imported: not those in functions, conditions or ``try``.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator, Mapping

from casemate.image.content import content_start
from casemate.image.tree import EntryKind, TreeEntry

_MAX_SOURCE = 4 << 20
_ROOT = re.compile(
    r"(?:^|.*/)(?:(?:site|dist)-packages|lib/python3\.[0-9]+(?:/lib-dynload)?)/(?!lib-dynload/)"
    r"(?!(?:site|dist)-packages/)"
)
_EXTENSION = re.compile(r"(\.(cpython|abi3|pypy)[^/]*)?\.(so|py|pyc)$")
# Part of every interpreter, or of another system's.
_ALWAYS = {
    "__future__", "__main__", "_frozen_importlib", "_frozen_importlib_external",
    "_overlapped", "_winapi", "_scproxy", "msvcrt", "nt", "winreg",
}  # fmt: skip
# Of a module, not of the tree: these are where somebody else's tests and tools lie.
_NOT_RUN = re.compile(
    r"/(tests?|testing|examples?|tools|benchmarks?|__pycache__|lib2to3|idlelib)/"
    r"|/(conftest|[a-z_]*_benchmark)\.py$"
)


def missing_modules(entries: Mapping[str, TreeEntry]) -> Iterator[tuple[str, str]]:
    """Top-level modules that are imported and absent, each with one file that imports it.

    Args:
        entries: the tree, by path.
    """
    present = set(sys.builtin_module_names) | _ALWAYS
    sources = []
    for path, entry in entries.items():
        root = _ROOT.match(path)
        if root is None:
            continue
        below = path[root.end() :]
        present.add(_EXTENSION.sub("", below.partition("/")[0]))
        if path.endswith(".py") and not _NOT_RUN.search("/" + below):
            sources.append(entry)
    seen: set[str] = set()
    for entry in sources:
        if entry.kind is not EntryKind.FILE or entry.size > _MAX_SOURCE:
            continue
        for name in sorted(_imported(content_start(entry, _MAX_SOURCE)) - present - seen):
            seen.add(name)
            yield name, entry.path


def _imported(source: bytes) -> set[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            body = ast.parse(source.decode("utf-8")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            found.add(statement.module.partition(".")[0])
    return found
