"""Where a bill's Python packages come from: locked requirements, or an environment that is there.

Locked requirements are installed into a cache, from wheels alone: pip unpacks those, and runs
nothing of them. What they depend on must be locked too.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from casemate.errors import UnavailableError, UsageError
from casemate.image.bom.grammar import PythonItem
from casemate.image.cache import cache_folder
from casemate.image.writing import writing

VERSION = f"python{sys.version_info[0]}.{sys.version_info[1]}"
"""The running interpreter, as folders are named after it."""
_INSTALLERS = {"pip", "setuptools", "wheel"}
_MAX_LOCK = 16 << 20
_SECONDS = 1800
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]*\])?\s*==")


def with_packages(item: PythonItem) -> PythonItem:
    """The same section with ``packages`` and ``distributions`` in place of where they come from.

    Raises:
        UsageError: ``bom.python``.
        UnavailableError: ``bom.install`` where pip can't install what is locked.
    """
    if item.requirements:
        folder = _installed(item)
    elif item.environment:
        folder = _site_packages(item)
    else:
        return item
    names = item.distributions or _distributions(folder)
    return replace(item, packages=str(folder), distributions=names)


def _distributions(folder: Path) -> tuple[str, ...]:
    found = {each.metadata["Name"] for each in metadata.distributions(path=[str(folder)])}
    return tuple(sorted(name for name in found if name and name.lower() not in _INSTALLERS))


def _site_packages(item: PythonItem) -> Path:
    folder = Path(item.environment) / "lib" / VERSION / "site-packages"
    if not folder.is_dir():
        raise UsageError(
            "bom.python",
            f"{item.where}: {item.environment} is no virtual environment of this interpreter",
            field="python.environment",
            expected=f"a folder with lib/{VERSION}/site-packages",
            got="none",
            remedy=f"Make it with {VERSION}, or run casemate with the interpreter that made it.",
        )
    return folder


def _installed(item: PythonItem) -> Path:
    """The folder of the cache that holds what is locked; made if it isn't there."""
    lock = _lock(item)
    system = os.uname()
    key = hashlib.sha256(lock)
    key.update(f"{sys.implementation.cache_tag} {system.sysname} {system.machine}".encode())
    folder = cache_folder("python") / key.hexdigest()[:40]
    if folder.is_dir():
        return folder
    with writing(folder):
        return _install_into(folder, lock, item)


def _install_into(folder: Path, lock: bytes, item: PythonItem) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="installing-") as scratch:
        locked, site = Path(scratch, "requirements.txt"), Path(scratch, "site")
        locked.write_bytes(lock)
        _install(item, locked, site)
        shutil.rmtree(site / "bin", ignore_errors=True)
        try:
            site.rename(folder)
        except OSError:
            if not folder.is_dir():  # else somebody else was first
                raise
    return folder


def _lock(item: PythonItem) -> bytes:
    """The lock's text; each requirement pinned and hashed, no option but hashes."""
    try:
        with Path(item.requirements).open("rb") as file:
            lock = file.read(_MAX_LOCK)
    except OSError as error:
        raise UsageError(
            "bom.missing",
            f"{item.where}: {item.requirements} can't be read",
            field="python.requirements",
            expected="a file of locked requirements",
            got=str(error),
        ) from error
    text = lock.decode("utf-8", "replace").replace("\\\r\n", " ").replace("\\\n", " ")
    for number, line in enumerate(text.splitlines(), 1):
        words = re.sub(r"(^|\s)#.*", "", line).split()
        options = [word for word in words if word.startswith("-")]
        plain = all(word.startswith("--hash=sha256:") for word in options)
        if words and not (options and plain and _REQUIREMENT.match(" ".join(words))):
            raise UsageError(
                "bom.python",
                f"{item.where}: {item.requirements} isn't locked",
                field="python.requirements",
                expected="NAME==VERSION --hash=sha256:… on every line, and no other option",
                got=f"requirement {number}: {' '.join(words)[:80]}",
                remedy="Lock it: pip-compile --generate-hashes, or uv export.",
            )
    return lock


def _install(item: PythonItem, lock: Path, site: Path) -> None:
    command = [
        sys.executable, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
        "--no-input", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile",
        "--target", str(site), "--requirement", str(lock),
    ]  # fmt: skip
    site.mkdir()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
        said = " | ".join((done.stderr or done.stdout).split("\n"))
        got = "" if done.returncode == 0 else said.strip(" |")[-400:]
    except (OSError, subprocess.TimeoutExpired) as error:
        got = str(error)[:400]
    if got:
        raise UnavailableError(
            "bom.install",
            f"{item.where}: pip can't install what {item.requirements} locks",
            field="python.requirements",
            expected="wheels with the locked hashes for this interpreter",
            got=got,
            remedy="Check the package index, and that every requirement has a wheel.",
        )
