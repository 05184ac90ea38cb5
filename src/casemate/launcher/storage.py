"""Where decrypted files may go: memory, and nothing that reaches a disk."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from casemate.errors import UsageError

_MEMORY_TYPES = {"tmpfs", "ramfs"}
_CANDIDATES = ("/dev/shm", "/run", "/tmp", "/var/tmp", "/mnt", "/dev")  # noqa: S108  examined, not trusted


def require_no_plain_swap(*, allow_disk: bool) -> None:
    """Refuse swap that isn't encrypted: the kernel may write memory there.

    Raises:
        UsageError: ``launcher.swap``.
    """
    plain = [device for device in _swap_devices() if not _is_protected(device)]
    if plain and not allow_disk:
        raise UsageError(
            "launcher.swap",
            "this machine may write decrypted memory to unencrypted swap",
            field="swap",
            expected="no swap, zram, or swap on dm-crypt",
            got=", ".join(plain),
            remedy="Switch it off (swapoff) or encrypt it; --allow-disk accepts the leak.",
        )


class PlainStorage:
    """Where decrypted files go when nothing can be mounted.

    Its name is settled before anything is made, so that whoever holds this can remove the files,
    also those of a process that was killed while it made them.
    """

    def __init__(self) -> None:
        self._name = f"casemate-root-{secrets.token_hex(16)}"

    def make(self, needed: int, *, allow_disk: bool) -> tuple[Path, str]:
        """Make a private directory for decrypted files.

        Args:
            needed: how many bytes must fit.
            allow_disk: fall back to storage that isn't memory.

        Returns:
            The directory, and in words what it lies on.

        Raises:
            UsageError: ``launcher.storage`` where no storage fits.
        """
        seen = []
        for candidate in _memory_candidates():
            reason = _unfit(candidate, needed)
            if reason is None:
                return self._made(candidate), f"memory ({candidate})"
            seen.append(f"{candidate}: {reason}")
        if allow_disk:
            return self._made(tempfile.gettempdir()), "A DISK: nothing protects it there"
        raise UsageError(
            "launcher.storage",
            f"no memory-backed storage can hold {needed >> 20} MiB of decrypted, executable files",
            field="storage",
            expected="tmpfs that is writable and not noexec",
            got="; ".join(seen),
            remedy="Mount one (docker run --tmpfs /run:exec,size=1g; in Kubernetes an emptyDir "
            "with medium: Memory), or accept the leak with --allow-disk.",
        )

    def remove(self) -> None:
        """Remove the directory, as far as it is there."""
        for base in (*_memory_candidates(), tempfile.gettempdir()):
            if (folder := Path(base, self._name)).exists():
                import shutil  # at the end of a launch, not at its start

                shutil.rmtree(folder, ignore_errors=True)

    def _made(self, base: str) -> Path:
        folder = Path(base, self._name)
        folder.mkdir(mode=0o700)
        return folder


def _memory_candidates() -> tuple[str, ...]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (*((runtime,) if runtime else ()), *_CANDIDATES)


def _unfit(candidate: str, needed: int) -> str | None:
    path = Path(candidate)
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return "not writable"
    if _file_system(path) not in _MEMORY_TYPES:
        return "not memory"
    space = os.statvfs(path)
    if space.f_flag & os.ST_NOEXEC:
        return "noexec"
    free = space.f_bavail * space.f_frsize
    return None if free >= needed else f"{free >> 20} MiB free"


def _file_system(path: Path) -> str:
    """The type of the file system that holds ``path``: the last mount on its longest prefix."""
    best, kind = -1, ""
    target = os.path.realpath(path)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, this, *_ = line.split(" ")
        prefix = mount.encode().decode("unicode_escape").rstrip("/")
        if (target + "/").startswith(prefix + "/") and len(prefix) >= best:
            best, kind = len(prefix), this
    return kind


def _swap_devices() -> list[str]:
    try:
        lines = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return []
    return [line.split()[0] for line in lines]


def _is_protected(device: str) -> bool:
    name = Path(os.path.realpath(device)).name
    if name.startswith("zram"):
        return True
    try:
        return Path(f"/sys/block/{name}/dm/uuid").read_text().startswith("CRYPT-")
    except OSError:
        return False
