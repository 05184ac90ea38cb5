"""Many sources compiled: from the user's cache what is there, the rest on all cores.

Most of the first build of a Python tree is compiling, so what was compiled is kept in the user's
own cache, by a digest of interpreter, name and source.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.image import bytecode as program
from casemate.image.bytecode import encode_sources, parse_bytecode
from casemate.image.cache import cache_folder

_FORMAT = b"casemate-bytecode/2"
_DIGEST = 32
# One more process starts in less time than it takes to compile this much.
_WORTH_A_PROCESS = 128 * 1024
_MOST_PROCESSES = 8
_SECONDS = 1800
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OTHERS_MAY_WRITE = 0o022

Source = tuple[bytes, str]
"""A source's text, and its path in the new root."""


def compiled(sources: Iterable[Source]) -> list[bytes | None]:
    """The bytecode of each source, in order, as `bytecode` has it.

    Args:
        sources: texts and names.

    Raises:
        UnavailableError: ``bom.compile`` where the compiling process doesn't start, or dies.

    Source: specs/bill-of-materials.md, "Bytecode".
    """
    cache, missing = _Cache.of_the_user(), []
    codes: list[bytes | None] = []
    for text, name in sources:
        key = _key(text, name)
        code = cache.get(key)
        if code is None:
            missing.append((len(codes), key, (text, name)))
        codes.append(code)
    made = _compiled_now([source for _, _, source in missing])
    for (number, key, _), code in zip(missing, made, strict=True):
        codes[number] = code
        if code is not None:
            cache.put(key, code)
    return codes


def _key(text: bytes, name: str) -> bytes:
    """Of everything that bytecode depends on: two releases of an interpreter may differ in it."""
    key = hashlib.sha256(_FORMAT + importlib.util.MAGIC_NUMBER)
    key.update(f"{sys.implementation.cache_tag} {sys.hexversion:x}\0".encode())
    key.update(name.encode("utf-8", "surrogatepass") + b"\0")
    key.update(text)
    return key.digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cache:
    """A file a source: a digest of key and bytecode, then the bytecode.

    A file that is damaged, that lies at another's place, or that somebody else could have written
    is as good as absent.

    Args:
        folder: where they are; None for nowhere.
    """

    folder: str | None

    @classmethod
    def of_the_user(cls) -> _Cache:
        try:
            return cls(folder=str(cache_folder("bytecode")))
        except RuntimeError:  # no home
            return cls(folder=None)

    def get(self, key: bytes) -> bytes | None:
        """Bytecode that was kept, if it's there."""
        if self.folder is None:
            return None
        try:
            descriptor = os.open(self._place(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            info = os.fstat(descriptor)
            if info.st_uid != os.geteuid() or info.st_mode & _OTHERS_MAY_WRITE:
                return None
            digest = os.read(descriptor, _DIGEST)
            code = os.read(descriptor, info.st_size)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return code if digest == _bound(key, code) else None

    def put(self, key: bytes, code: bytes) -> None:
        """Keep bytecode, if that is possible."""
        if self.folder is None:
            return
        place = self._place(key)
        part = f"{place}.{os.getpid()}"
        with contextlib.suppress(OSError):
            try:
                descriptor = os.open(part, _NEW, 0o600)
            except FileNotFoundError:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(part, _NEW, 0o600)
            try:
                os.writev(descriptor, (_bound(key, code), code))
            finally:
                os.close(descriptor)
            os.replace(part, place)  # noqa: PTH105  thousands of them

    def _place(self, key: bytes) -> str:
        name = key.hex()
        return f"{self.folder}/{name[:2]}/{name[2:]}"


def _bound(key: bytes, code: bytes) -> bytes:
    digest = hashlib.sha256(key)
    digest.update(code)
    return digest.digest()


def _compiled_now(sources: Sequence[Source]) -> list[bytes | None]:
    """Compile in processes that run this package's own program, as many as pay."""
    if not sources:
        return []
    size = sum(len(text) for text, _ in sources)
    processes = min(len(os.sched_getaffinity(0)), 1 + size // _WORTH_A_PROCESS, _MOST_PROCESSES)
    codes: list[bytes | None] = [None] * len(sources)
    shares = _shares(sources, processes)
    with ThreadPoolExecutor(max_workers=processes) as pool:
        work = [[sources[number] for number in share] for share in shares]
        for share, made in zip(shares, pool.map(_compiled_elsewhere, work), strict=True):
            for number, code in zip(share, made, strict=True):
                codes[number] = code
    return codes


def _shares(sources: Sequence[Source], count: int) -> list[list[int]]:
    """Numbers of sources in shares of about the same size."""
    shares: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    for number in sorted(range(len(sources)), key=lambda each: -len(sources[each][0])):
        least = sizes.index(min(sizes))
        shares[least].append(number)
        sizes[least] += len(sources[number][0])
    return shares


def _compiled_elsewhere(sources: Sequence[Source]) -> list[bytes | None]:
    # -I and -S: nothing of the environment, the working folder and the installed packages.
    command = [sys.executable, "-I", "-S", str(program.__file__)]
    try:
        done = subprocess.run(
            command, input=encode_sources(sources), capture_output=True, timeout=_SECONDS,
            check=False,
        )  # fmt: skip
        codes = parse_bytecode(done.stdout)
        if done.returncode == 0 and len(codes) == len(sources):
            return codes
        got = done.stderr.decode("utf-8", "replace").strip()[-400:] or f"exit {done.returncode}"
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        got = str(error)[:400]
    raise UnavailableError(
        "bom.compile",
        "the process that compiles Python sources gives no answer",
        field="python",
        expected=f"the bytecode of {len(sources)} sources",
        got=got,
        remedy="Check that this user may start processes, and the memory that is left.",
    )
