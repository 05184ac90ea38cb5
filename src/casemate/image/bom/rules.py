"""What is loaded by name at run time and stands in no file's list of needs, as far as it's known.

Source: nsswitch.conf(5); glibc 2.34's release notes, "files and dns are built into libc".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from casemate.image.content import content_start
from casemate.image.tree import TreeEntry

LIBC = "libc.so.6"
_UNWINDER = "libgcc_s.so.1"
_SWITCH = "etc/nsswitch.conf"
_DEFAULT_SERVICES = ("files", "dns")
_BUILT_IN_SINCE = b"GLIBC_2.34\0"
_SERVICE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MAX_SWITCH = 65536


def loaded_by_name(entries: Mapping[str, TreeEntry]) -> Iterator[tuple[str, str]]:
    """Libraries that the C library loads by name, and why.

    Args:
        entries: the tree so far, by path.
    """
    libc = next((entry for path, entry in entries.items() if _name(path) == LIBC), None)
    if libc is None:
        return
    yield _UNWINDER, f"rule: {LIBC} loads it by name when a thread is cancelled"
    for service in name_services(entries, libc):
        yield f"libnss_{service}.so.2", f"rule: {LIBC} loads it by name for /{_SWITCH}"


def name_services(entries: Mapping[str, TreeEntry], libc: TreeEntry) -> tuple[str, ...]:
    """The name services that need a library of their own.

    Args:
        entries: the tree, by path.
        libc: the C library.
    """
    named: tuple[str, ...] = _DEFAULT_SERVICES
    switch = entries.get(_SWITCH)
    if switch is not None:
        text = content_start(switch, _MAX_SWITCH).decode("utf-8", "replace")
        lines = [line.split("#")[0].partition(":")[2] for line in text.splitlines()]
        words = re.sub(r"\[[^\]]*\]", " ", " ".join(lines)).split()
        named = tuple(dict.fromkeys(word for word in words if _SERVICE.fullmatch(word)))
    if _BUILT_IN_SINCE in content_start(libc, 16 << 20):
        named = tuple(name for name in named if name not in _DEFAULT_SERVICES)
    return named


def _name(path: str) -> str:
    return path.rpartition("/")[2]
