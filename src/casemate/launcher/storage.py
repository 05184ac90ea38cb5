"""Where decrypted files may go: memory, and nothing that reaches a disk."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.storage import DANGER, is_memory, megabytes

_CANDIDATES = ("/dev/shm", "/run", "/tmp", "/var/tmp", "/mnt", "/dev")  # noqa: S108  examined, not trusted


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
        if allow_disk and (usual := _usual_folder()):
            return self._made(usual[0]), "A DISK: nothing protects it there"
        raise UsageError(
            "launcher.storage",
            f"no memory-backed storage can hold {megabytes(needed)} of decrypted, executable files",
            field="storage",
            expected="tmpfs that is writable and not noexec",
            got="; ".join(seen),
            remedy="Mount one (docker run --tmpfs /run:exec,size=1g; in Kubernetes an emptyDir "
            f"with medium: Memory), or accept the leak with {DANGER}.",
        )

    def remove(self) -> None:
        """Remove the directory, as far as it is there."""
        for base in (*_memory_candidates(), *_usual_folder()):
            if (folder := Path(base, self._name)).exists():
                import shutil  # at the end of a launch, not at its start

                shutil.rmtree(folder, ignore_errors=True)

    def _made(self, base: str) -> Path:
        folder = Path(base, self._name)
        folder.mkdir(mode=0o700)
        return folder


def _usual_folder() -> tuple[str, ...]:
    """Where temporary files go; nowhere in a container whose root is read-only."""
    try:
        return (tempfile.gettempdir(),)
    except FileNotFoundError:
        return ()


def _memory_candidates() -> tuple[str, ...]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (*((runtime,) if runtime else ()), *_CANDIDATES)


def _unfit(candidate: str, needed: int) -> str | None:
    path = Path(candidate)
    if not path.is_dir() or not os.access(path, os.W_OK | os.X_OK):
        return "not writable"
    if not is_memory(path):
        return "not memory"
    space = os.statvfs(path)
    if space.f_flag & os.ST_NOEXEC:
        return "noexec"
    if not space.f_blocks:
        return None  # a memory file system without a limit of its own
    free = space.f_bavail * space.f_frsize
    return None if free >= needed else f"{free >> 20} MiB free"
