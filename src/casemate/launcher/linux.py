"""The Linux calls that Python 3.11 lacks. Source: the kernel's headers and man pages, section 2."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

from casemate.image.fuse_servers import STANDS_BY

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION_3 = 0x20080522

CAP_MKNOD = 27
CAP_SYS_ADMIN = 21
CAP_SYS_CHROOT = 18

_PATIENCE_SECONDS = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Raises `OSError`."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def pivot_root(new: str, old: str) -> None:
    """Exchange the root of this mount namespace. Raises `OSError`."""
    number = _SYS_PIVOT_ROOT[os.uname().machine]
    _check(_libc.syscall(ctypes.c_long(number), new.encode(), old.encode()), "pivot_root")


def die_with_parent(signal: int) -> None:
    """Get ``signal`` when the process that forked us ends."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def forbid_dumps() -> None:
    """No core dump, no reading of our memory through /proc by the same user."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent has ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_every_child() -> None:
    """Kill and reap every child, and whatever we adopt because of it.

    Who stands by for a mount ends by itself, once no server of it needs that to end.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for _ in range(1000):
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            spared = False
            for child in _children():
                if time.monotonic() < deadline and _stands_by(child):
                    spared = True
                    continue
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            if spared:
                time.sleep(0.02)
                continue
            with contextlib.suppress(ChildProcessError):
                os.waitpid(-1, 0)


def _stands_by(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes() == STANDS_BY.encode() + b"\n"
    except OSError:
        return False


def _children() -> list[int]:
    children: list[int] = []
    for thread in Path("/proc/self/task").iterdir():  # each has those that it forked
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            children += map(int, (thread / "children").read_text().split())
    return children


def forbid_new_privileges() -> None:
    """Set-user-id bits and file capabilities mean nothing from now on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding_capabilities() -> None:
    """Empty the bounding and ambient sets: what is executed gets no capability, not as root."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text()) if _has_proc() else 40
    for capability in range(last + 1):
        _prctl(_PR_CAPBSET_DROP, capability)


def drop_capabilities() -> None:
    """Give up every capability of this process."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    number = _SYS_CAPSET[os.uname().machine]
    _check(_libc.syscall(ctypes.c_long(number), header, data), "capset")


def has_capability(number: int) -> bool:
    """Whether this process may use a capability."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _has_proc() -> bool:
    return Path("/proc/sys/kernel/cap_last_cap").exists()


def _prctl(option: int, argument: int) -> None:
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero), f"prctl {option}")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
