"""How the workload is parted from the host: what the machine allows, and what each way protects."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from casemate.errors import UsageError
from casemate.image import mounting
from casemate.launcher import linux
from casemate.launcher.options import RootChoice

# Not the pid namespace: whoever unshares that can't start threads any more, and the keeper needs
# them. Init gets one of its own (`casemate.launcher.keeper`).
_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


class Isolation(Enum):
    """The ways, best first, each with what it protects."""

    NAMESPACES = "mount, pid, ipc and uts namespaces; the workload sees the new root alone"
    USER_NAMESPACE = (
        "user, mount, pid, ipc and uts namespaces; the workload sees the new root alone, and root "
        "in it is nobody outside"
    )
    CHROOT = (
        "chroot without capabilities; the workload sees the new root alone, but shares process "
        "numbers and IPC with the host"
    )

    @property
    def can_mount(self) -> bool:
        """Whether mounts are private to it, and vanish with it."""
        return self is not Isolation.CHROOT


def choose_isolation(choice: RootChoice) -> Isolation:
    """Pick the best way that this machine allows, by trying it in a child process.

    Args:
        choice: what the host insists on.

    Raises:
        UsageError: ``launcher.isolation`` where none of what was asked for is allowed.
    """
    candidates = {
        RootChoice.AUTO: tuple(Isolation),
        RootChoice.NAMESPACE: (Isolation.NAMESPACES, Isolation.USER_NAMESPACE),
        RootChoice.CHROOT: (Isolation.CHROOT,),
    }[choice]
    reasons = []
    for candidate in candidates:
        reason = _try(lambda candidate=candidate: _trial(candidate))  # type: ignore[misc]
        if reason is None:
            return candidate
        reasons.append(f"{candidate.name.lower()}: {reason}")
    raise UsageError(
        "launcher.isolation",
        "this machine lets the launcher make no new root",
        field="--root",
        expected=" or ".join(candidate.name.lower() for candidate in candidates),
        got="; ".join(reasons),
        remedy="Allow user namespaces, or run the launcher as root (CAP_SYS_CHROOT suffices).",
    )


def enter_isolation(isolation: Isolation) -> None:
    """Enter the namespaces, all but the pid namespace."""
    if isolation is Isolation.CHROOT:
        return
    if isolation is Isolation.USER_NAMESPACE:
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(linux.CLONE_NEWUSER | _NAMESPACES)
        map_user(inside=(0, 0), outside=(uid, gid))
    else:
        linux.unshare(_NAMESPACES)
    # Nothing that is mounted from now on reaches the host, and nothing comes from there.
    mounting.mount(None, "/", None, mounting.MS_REC | mounting.MS_PRIVATE)


def map_user(*, inside: tuple[int, int], outside: tuple[int, int]) -> None:
    """Name our user and group in a user namespace that we have just made."""
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{inside[0]} {outside[0]} 1")
    (own / "gid_map").write_text(f"{inside[1]} {outside[1]} 1")


def _trial(isolation: Isolation) -> None:
    if isolation is Isolation.CHROOT:
        os.chroot("/")
        return
    if isolation is Isolation.NAMESPACES and not linux.has_capability(linux.CAP_SYS_ADMIN):
        raise PermissionError("no CAP_SYS_ADMIN")
    enter_isolation(isolation)
    linux.unshare(linux.CLONE_NEWPID)
    mounting.mount("tmpfs", "/proc/self/cwd" if Path.cwd() != Path("/") else "/mnt", "tmpfs")


def _try(trial: Callable[[], None]) -> str | None:
    """Run ``trial`` in a child; None if it went well, else why not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(5)
            trial()
            os._exit(0)
        except OSError as error:
            os.write(writer, (error.strerror or str(error)).encode()[:200])
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        reason = pipe.read()
    _, status = os.waitpid(child, 0)
    return None if status == 0 else reason.decode("utf-8", "replace") or "not allowed"
