"""Init: the workload's parent. Process 1 of the new pid namespace, or a plain parent in a chroot.

It is forked before any secret exists in the keeper's memory, waits to be told the root, enters it,
starts the workload, forwards signals, reaps whatever ends, and reports how the workload ended.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from casemate.errors import CasemateError, InternalError, UsageError
from casemate.image import mounting
from casemate.launcher import linux
from casemate.launcher.isolation import Isolation, map_user
from casemate.launcher.wire import error_message, receive_message, send_message
from casemate.protocol.contract import LaunchContract

FORWARDED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)

_READ_ONLY = ("sys", "irq", "bus", "fs", "acpi", "scsi", "sysrq-trigger")
_HIDDEN = ("kcore", "keys", "key-users", "timer_list", "kallsyms", "kmsg", "latency_stats")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is started.

    Args:
        contract: command line, directory, user.
        environment: the exact environment.
        isolation: how the new root is entered.
    """

    contract: LaunchContract
    environment: dict[str, str]
    isolation: Isolation


def run_init(control: socket.socket, workload: Workload) -> NoReturn:
    """Be init. Never returns."""
    try:
        linux.adopt_orphans()
        if receive_message(control) is None:  # until the keeper has adopted us
            os._exit(1)
        linux.die_with_parent(signal.SIGKILL)
        message = receive_message(control)
        if message is None:
            os._exit(1)
        _enter(message.take("root", str), workload.isolation)
        child = _start(workload)
        linux.forbid_dumps()
        send_message(control, {"kind": "started", "pid": child})
        send_message(control, {"kind": "exit", "status": _reap(child)})
    except CasemateError as error:
        send_message(control, error_message(error))
    except OSError as error:
        send_message(
            control,
            error_message(
                InternalError("launcher.init", "the new root can't be entered", got=str(error))
            ),
        )
    finally:
        os._exit(0)


def _enter(root: str, isolation: Isolation) -> None:
    if isolation is Isolation.CHROOT:
        os.chroot(root)
        os.chdir("/")
        return
    # A mount namespace of our own: the keeper stays where it can serve FUSE and read its files.
    linux.unshare(linux.CLONE_NEWNS)
    flags = mounting.MS_NOSUID | mounting.MS_NODEV | mounting.MS_NOEXEC
    # A container that hides parts of its /proc forbids a fresh one; the workload then goes without.
    with contextlib.suppress(OSError):
        mounting.mount("proc", f"{root}/proc", "proc", flags)
        _guard_proc(f"{root}/proc")
    os.chdir(root)
    linux.pivot_root(".", ".")
    mounting.umount(".", mounting.MNT_DETACH)
    os.chdir("/")


def _guard_proc(proc: str) -> None:
    """Keep root without capabilities from what /proc would still let it change or read."""
    read_only = mounting.MS_REMOUNT | mounting.MS_BIND | mounting.MS_RDONLY
    flags = mounting.MS_NOSUID | mounting.MS_NODEV | mounting.MS_NOEXEC
    for name in _READ_ONLY:
        if os.path.exists(path := f"{proc}/{name}"):  # noqa: PTH110  as few imports as can be
            mounting.mount(path, path, None, mounting.MS_BIND | mounting.MS_REC)
            mounting.mount(None, path, None, read_only | flags)
    for name in _HIDDEN:
        if os.path.exists(path := f"{proc}/{name}"):  # noqa: PTH110
            mounting.mount("/dev/null", path, None, mounting.MS_BIND)


def _start(workload: Workload) -> int:
    """Fork the workload; returns its pid once its program runs.

    Raises:
        UsageError: ``launcher.exec`` where the program can't be started.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _become(workload, keep=writer)
            argv = workload.contract.argv
            os.execve(argv[0], argv, workload.environment)  # noqa: S606  the contract's program
        except BaseException as error:  # noqa: BLE001  a forked child must not return
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:500])
        os._exit(127)
    os.close(writer)
    for number in FORWARDED:
        signal.signal(number, _forward_to(child))
    failure = b""
    while data := os.read(reader, 512):
        failure += data
    os.close(reader)
    if failure:
        os.waitpid(child, 0)
        raise UsageError(
            "launcher.exec",
            f"the workload {workload.contract.argv[0]} can't be started",
            field="argv[0]",
            expected="an executable of the root image, with the libraries it needs",
            got=failure.decode("utf-8", "replace"),
            remedy="Check argv, working directory and user of the contract against the image.",
        )
    return child


def _become(workload: Workload, *, keep: int) -> None:
    """Turn this child into what the contract says, and into nothing more."""
    contract = workload.contract
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.setsid()
    os.umask(0o022)
    os.closerange(3, keep)
    os.closerange(keep + 1, _most_files())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(contract.working_directory)
    if workload.isolation is Isolation.USER_NAMESPACE:
        if (contract.uid, contract.gid) != (0, 0):
            linux.unshare(linux.CLONE_NEWUSER)
            map_user(inside=(contract.uid, contract.gid), outside=(0, 0))
        linux.drop_bounding_capabilities()
    else:
        linux.drop_bounding_capabilities()
        os.setgroups([])
        os.setresgid(contract.gid, contract.gid, contract.gid)
        os.setresuid(contract.uid, contract.uid, contract.uid)
    linux.drop_capabilities()
    linux.forbid_new_privileges()


def _reap(workload: int) -> int:
    """Wait for the workload, reaping orphans; returns its exit status, 128 + signal if killed."""
    while True:
        pid, status = os.wait()
        if pid == workload:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _forward_to(child: int) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    return forward


def _most_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(soft, 1 << 20)
