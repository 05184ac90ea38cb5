"""Where decrypted bytes may go: memory that is there, and that no plain swap takes to a disk.

The kernel tells it in ``/proc`` and ``/sys``; both are arguments, so that a test can tell other
tales.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.format import TocEntry

DANGER = "--dangerously-allow-disk"
_MEMORY_TYPES = frozenset({"tmpfs", "ramfs"})
_PAGE = 4096
_INODE = 1024  # what a memory file system takes for an entry besides its content
_UNLIMITED = 1 << 60  # version 1 of control groups tells "no limit" as a number beyond all memory
_PROC, _SYS = Path("/proc"), Path("/sys")


def extracted_size(entries: Iterable[TocEntry]) -> int:
    """Bytes of memory that a tree takes once it is extracted: whole pages, and its entries."""
    return sum(_INODE + entry.size + -entry.size % _PAGE for entry in entries)


def memory_left(*, proc: Path = _PROC, sys: Path = _SYS) -> int:
    """Bytes of memory that may still be taken: by the machine and by every control group above us.

    What the kernel can drop at once (its cache of files) counts as free.
    """
    left = []
    for line in _lines(proc / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            left.append(int(value.split()[0]) * 1024)
    for line in _lines(proc / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            left += _room(sys / "fs/cgroup", path, "memory.max", "memory.current", "")
            left += _room(sys / "fs/cgroup/unified", path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            names = "memory.limit_in_bytes", "memory.usage_in_bytes"
            left += _room(sys / "fs/cgroup/memory", path, *names, "total_")
    return max(0, min(left, default=_UNLIMITED))


def require_memory(needed: int, left: int, *, what: str) -> None:
    """Refuse to take memory that isn't there: half an extraction only ends later, and worse.

    Args:
        needed: in bytes.
        left: in bytes, from :func:`memory_left`.
        what: is to be extracted.

    Raises:
        UsageError: ``image.memory``.
    """
    if needed > left:
        raise UsageError(
            "image.memory",
            f"not enough memory is left to extract {what}",
            field="memory",
            expected=f"{megabytes(needed)} for the decrypted files",
            got=f"{megabytes(left)} left, of the machine or of the control group's limit",
            remedy="Give it more memory, or mount the images instead (/dev/fuse and the right to "
            "mount): a mount takes little memory at any size.",
        )


def require_memory_backed(folder: Path, *, allow_disk: bool, proc: Path = _PROC) -> None:
    """Refuse a folder whose files lie on a disk.

    Args:
        folder: where decrypted files shall go; the nearest folder above it that exists, and can be
            seen to, counts.
        allow_disk: accept it all the same.

    Raises:
        UsageError: ``image.disk``.
    """
    existing = Path(os.path.realpath(folder))
    while not os.path.exists(existing):  # noqa: PTH110  `Path.exists` raises where one may not look
        existing = existing.parent
    kind = file_system(existing, proc=proc)
    if kind not in _MEMORY_TYPES and not allow_disk:
        raise UsageError(
            "image.disk",
            f"decrypted files would reach a disk in {folder}",
            field=str(folder),
            expected="memory-backed storage (tmpfs)",
            got=kind or "a file system that the kernel doesn't name",
            remedy=f"Choose a folder in /dev/shm or another tmpfs; {DANGER} accepts the leak.",
        )


def is_memory(path: Path, *, proc: Path = _PROC) -> bool:
    """Whether what exists at ``path`` lies in memory."""
    return file_system(path, proc=proc) in _MEMORY_TYPES


def require_no_plain_swap(*, allow_disk: bool, proc: Path = _PROC, sys: Path = _SYS) -> None:
    """Refuse swap that isn't encrypted: the kernel may write memory there.

    Raises:
        UsageError: ``image.swap``.
    """
    devices = [_unescaped(line.split()[0]) for line in _lines(proc / "swaps")[1:]]
    plain = [device for device in devices if not _is_protected(device, sys)]
    if plain and not allow_disk:
        raise UsageError(
            "image.swap",
            "this machine may write decrypted memory to unencrypted swap",
            field="swap",
            expected="no swap, zram without a device behind it, or swap on dm-crypt",
            got=", ".join(plain),
            remedy=f"Switch it off (swapoff) or encrypt it; {DANGER} accepts the leak.",
        )


def file_system(path: Path, *, proc: Path = _PROC) -> str:
    """The type of the file system that holds ``path``, by its device; empty where unknown."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in _lines(proc / "self" / "mountinfo"):
        mount, _, source = line.partition(" - ")
        if mount.split(" ")[2] == number:
            return source.split(" ")[0]
    return ""


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{-(-size >> 20)} MiB"


def _room(base: Path, path: str, limit: str, usage: str, prefix: str) -> list[int]:
    """What each control group from ``path`` up to the root leaves.

    In a container the root of what is visible may be the container's own group, whatever its path.
    """
    left = []
    group = Path(os.path.normpath(f"{base}/{path}"))
    while group == base or base in group.parents:
        most, used = _number(group / limit), _number(group / usage)
        if most is not None and used is not None and most < _UNLIMITED:
            pairs = (line.split(" ") for line in _lines(group / "memory.stat"))
            droppable = (f"{prefix}inactive_file", f"{prefix}active_file")
            left.append(most - used + sum(int(value) for name, value in pairs if name in droppable))
        group = group.parent
    return left


def _number(path: Path) -> int | None:
    text = "".join(_lines(path))
    return int(text) if text.isdecimal() else None  # "max" is no limit


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescaped(name: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        name = name.replace(code, character)
    return name


def _is_protected(device: str, sys: Path) -> bool:
    """Whether what is swapped out to ``device`` stays in memory or is encrypted.

    A swap file counts as plain even on an encrypted file system: what lies below that can't be told
    reliably.
    """
    name = Path(os.path.realpath(device)).name
    block = sys / "block" / name
    if name.startswith("zram"):
        behind = _lines(block / "backing_dev")  # absent where the kernel can't write back
        return not behind or behind == ["none"]
    return _is_encrypted(block, sys)


def _is_encrypted(block: Path, sys: Path) -> bool:
    if "".join(_lines(block / "dm" / "uuid")).startswith("CRYPT-"):
        return True
    try:
        below = sorted((block / "slaves").iterdir())
    except OSError:
        return False
    return bool(below) and all(_is_encrypted(sys / "block" / part.name, sys) for part in below)
