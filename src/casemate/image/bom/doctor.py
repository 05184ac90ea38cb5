"""What is probably missing from a tree: what is asked for at run time, and nothing names before.

These are guesses by rule, from reading alone. A tree without findings may still lack something;
a finding may be meant.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from casemate.image.bom.assembly import Assembly
from casemate.image.bom.imports import missing_modules
from casemate.image.bom.rules import LIBC, name_services
from casemate.image.content import content_pieces, content_start
from casemate.image.tree import EntryKind, TreeEntry

_ELF = b"\x7fELF"
_LIBRARY = re.compile(rb"(?<![\w./-])(lib[A-Za-z0-9_+.-]{1,60}\.so(?:\.[0-9]+){0,3})\0")
_OVERLAP = 128
_MAX_FINDINGS = 1000
_MAX_LINKS = 40
_MAX_SCRIPT_LINE = 256
_TLS = re.compile(r"lib(ssl|gnutls|nss3)\.so|/_ssl\.|/cygrpc\.")
_CERTIFICATES = re.compile(
    r"(^|/)(ca-certificates\.crt|cacert\.pem|ca-bundle\.crt|roots\.pem|cert\.pem)$"
)
_SEARCHED = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")


class Missing(StrEnum):
    """What kind of thing is probably missing."""

    LIBRARY = "library"
    NAME_SERVICE = "name-service"
    CERTIFICATES = "certificates"
    ACCOUNTS = "accounts"
    LOCALE = "locale"
    TIME_ZONES = "time-zones"
    INTERPRETER = "interpreter"
    MODULE = "module"
    LINK = "link"
    FOLDER = "folder"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is probably missing.

    Args:
        what: its kind.
        name: of what is missing.
        path: of what asks for it; empty for the tree as a whole.
        remedy: what to do if it is needed.
    """

    what: Missing
    name: str
    path: str
    remedy: str


def examine(assembly: Assembly) -> tuple[Finding, ...]:
    """Look for what is probably missing.

    Args:
        assembly: a tree; what it points at must still be there.
    """
    tree = _Tree(assembly)
    findings: list[Finding] = [
        Finding(what=Missing.WARNING, name=text, path="", remedy="See the bill.")
        for text in assembly.warnings
    ]
    for look in (_links, _interpreters, _libraries, _system, _modules):
        findings += look(tree)
    return tuple(findings[:_MAX_FINDINGS])


class _Tree:
    """A tree that can be asked for paths, links followed."""

    def __init__(self, assembly: Assembly) -> None:
        self.entries = {entry.path: entry for entry in assembly.entries}
        self.names = {path.rpartition("/")[2] for path in self.entries}

    def files(self) -> Iterator[TreeEntry]:
        for entry in self.entries.values():
            if entry.kind is EntryKind.FILE and entry.size:
                yield entry

    def resolve(self, path: str) -> TreeEntry | None:
        """What a path means in the new root; None for nothing, also for the root itself."""
        pending, at, links = [part for part in path.split("/") if part][::-1], "", 0
        while pending:
            part = pending.pop()
            at = posixpath.normpath(posixpath.join("/", at, part)).lstrip("/")
            entry = self.entries.get(at)
            if entry is not None and entry.kind is EntryKind.SYMLINK:
                links += 1
                if links > _MAX_LINKS:
                    return None
                pending += [part for part in entry.target.split("/") if part][::-1]
                at = "" if entry.target.startswith("/") else at.rpartition("/")[0]
        return self.entries.get(at)


def _links(tree: _Tree) -> Iterator[Finding]:
    for entry in tree.entries.values():
        if entry.kind is not EntryKind.SYMLINK or entry.target.startswith(
            ("/proc", "/dev", "/run")
        ):
            continue
        start = "" if entry.target.startswith("/") else entry.path.rpartition("/")[0]
        target = posixpath.normpath(posixpath.join("/", start, entry.target))
        if target != "/" and tree.resolve(target) is None:
            yield Finding(
                what=Missing.LINK, name=entry.target, path=entry.path,
                remedy="Copy what the link means, or leave the link out.",
            )  # fmt: skip


def _interpreters(tree: _Tree) -> Iterator[Finding]:
    """Of scripts: the program that runs them."""
    for entry in tree.files():
        if not entry.mode & 0o111:
            continue
        first = content_start(entry, _MAX_SCRIPT_LINE).split(b"\n")[0]
        words = first.removeprefix(b"#!").decode("utf-8", "replace").split()
        if not first.startswith(b"#!") or not words:
            continue
        wanted = [words[0]]
        if posixpath.basename(words[0]) == "env":
            arguments = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
            wanted += arguments[:1]
        for name in wanted:
            if not _program(tree, name):
                yield Finding(
                    what=Missing.INTERPRETER, name=name, path=entry.path,
                    remedy="Add the program to the bill, or leave the script out.",
                )  # fmt: skip


def _program(tree: _Tree, name: str) -> bool:
    if "/" in name:
        return tree.resolve(name) is not None
    return any(tree.resolve(f"{folder}/{name}") is not None for folder in _SEARCHED)


def _libraries(tree: _Tree) -> Iterator[Finding]:
    """Names of libraries that stand in programs and libraries: probably to be loaded by name."""
    seen: set[str] = set()
    for entry in tree.files():
        if content_start(entry, 4) != _ELF:
            continue
        for name in sorted(_library_names(entry) - seen):
            if name.startswith("libnss_") or _in_another_version(name, tree.names):
                continue  # name services have a rule of their own
            seen.add(name)
            yield Finding(
                what=Missing.LIBRARY, name=name, path=entry.path,
                remedy=f"If it is used, add it to the bill: libraries: [{name}]",
            )  # fmt: skip


def _library_names(entry: TreeEntry) -> set[str]:
    found: set[bytes] = set()
    tail = b""
    for piece in content_pieces(entry):
        window = tail + piece
        found.update(_LIBRARY.findall(window))
        tail = window[-_OVERLAP:]
    return {name.decode("ascii") for name in found}


def _in_another_version(name: str, names: set[str]) -> bool:
    """Programs often try several versions of one library; wheels put a hash into the name."""
    stem = name.partition(".so")[0]
    return any(each.startswith((f"{stem}.so", f"{stem}-")) for each in names)


def _system(tree: _Tree) -> Iterator[Finding]:
    libc = next((e for p, e in tree.entries.items() if p.endswith("/" + LIBC)), None)
    if libc is None:
        return
    for service in name_services(tree.entries, libc):
        if f"libnss_{service}.so.2" not in tree.names:
            yield Finding(
                what=Missing.NAME_SERVICE, name=f"libnss_{service}.so.2",
                path="etc/nsswitch.conf", remedy="Install it, or leave the service out.",
            )  # fmt: skip
    tls = next((path for path in sorted(tree.entries) if _TLS.search(path)), "")
    if tls and not any(_CERTIFICATES.search(path) for path in tree.entries):
        yield Finding(
            what=Missing.CERTIFICATES, name="/etc/ssl/certs/ca-certificates.crt", path=tls,
            remedy="If it connects to public servers, copy the file from this machine.",
        )  # fmt: skip
    for path, what, remedy in (
        ("etc/passwd", Missing.ACCOUNTS, "Add users to the bill: programs ask who they are."),
        ("etc/nsswitch.conf", Missing.NAME_SERVICE, "Write it: hosts: files dns."),
        ("etc/hosts", Missing.NAME_SERVICE, "Write it: 127.0.0.1 localhost."),
        ("usr/share/zoneinfo", Missing.TIME_ZONES, "All times are UTC without; copy it if needed."),
        ("usr/lib/locale", Missing.LOCALE, "Only C and C.UTF-8 are known without."),
        ("tmp", Missing.FOLDER, "Add it to mkdirs: many programs write there."),
    ):
        if tree.resolve(path) is None:
            yield Finding(what=what, name=f"/{path}", path="", remedy=remedy)


def _modules(tree: _Tree) -> Iterator[Finding]:
    for name, path in missing_modules(tree.entries):
        yield Finding(
            what=Missing.MODULE, name=name, path=path,
            remedy="Add its distribution, or stdlib: full; or exclude what imports it.",
        )  # fmt: skip
