"""The keeper: makes the new root, serves its mounts, and takes all of it down at the end.

A process of its own, forked from the launcher before that speaks to the network. It ends when the
launcher ends, however that happens, and everything of the workload ends with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from types import FrameType
from typing import NoReturn

from casemate.encoding import CborValue
from casemate.errors import CasemateError, InternalError
from casemate.image.storage import require_no_plain_swap
from casemate.launcher import linux
from casemate.launcher.init import FORWARDED, Workload, run_init
from casemate.launcher.isolation import choose_isolation, enter_isolation
from casemate.launcher.newroot import NewRoot
from casemate.launcher.options import LaunchOptions
from casemate.launcher.storage import PlainStorage
from casemate.launcher.wire import error_from, error_message, receive_message, send_message
from casemate.protocol.contract import LaunchContract
from casemate.types import Secret


class _LauncherGoneError(BaseException):
    """The launcher has ended before its workload: take everything down."""


def run_keeper(
    control: socket.socket,
    contract: LaunchContract,
    environment: dict[str, str],
    options: LaunchOptions,
    storage: PlainStorage,
) -> NoReturn:
    """Be the keeper. Never returns."""
    launcher = os.getppid()

    def gone(number: int, frame: FrameType | None) -> None:
        del number, frame
        if os.getppid() != launcher:
            raise _LauncherGoneError

    try:
        signal.signal(signal.SIGTERM, gone)
        linux.die_with_parent(signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        os.setsid()  # Ctrl-C reaches the launcher, which forwards it once
        status = _keep(control, contract, environment, options, storage, launcher)
        send_message(control, {"kind": "exit", "status": status})
    except CasemateError as error:
        _report(control, error)
    except _LauncherGoneError:
        pass
    except Exception as error:  # noqa: BLE001  the edge of a process
        _report(control, InternalError("launcher.keeper", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _keep(
    control: socket.socket,
    contract: LaunchContract,
    environment: dict[str, str],
    options: LaunchOptions,
    storage: PlainStorage,
    launcher: int,
) -> int:
    def tell(event: str, sentence: str | None, **details: CborValue) -> None:
        message: dict[str, CborValue] = {"kind": "told", "event": event, "details": details}
        if sentence is not None:
            message["sentence"] = sentence
        send_message(control, message)

    require_no_plain_swap(allow_disk=options.allow_disk)
    isolation = choose_isolation(options.root)
    enter_isolation(isolation)
    linux.adopt_orphans()
    tell("isolation", f"new root: {isolation.value}", isolation=isolation.name.lower())
    workload = Workload(contract=contract, environment=environment, isolation=isolation)
    init, to_init = _fork_init(workload)
    linux.forbid_dumps()
    try:
        with NewRoot(contract, options, isolation, tell, storage) as root:
            try:
                secrets, minted = _receive_secrets(control)
                try:
                    path = root.build(secrets, minted)
                finally:
                    secrets.clear()
                    minted.clear()
                send_message(to_init, {"root": str(path)})
                return _watch(control, to_init, init, launcher)
            finally:
                _heed_no_more()
    finally:
        _end_everything(init)


def _fork_init(workload: Workload) -> tuple[int, socket.socket]:
    """Fork init, where mounts are private as process 1 of a pid namespace.

    That takes a process between, which enters the namespace, forks, and ends; init is then ours.
    """
    ours, theirs = socket.socketpair()
    between = os.fork()
    if between == 0:
        ours.close()
        try:
            if workload.isolation.can_mount:
                linux.unshare(linux.CLONE_NEWPID)
            init = os.fork()
            if init == 0:
                run_init(theirs, workload)
            send_message(theirs, {"pid": init})
        finally:
            os._exit(0)
    theirs.close()
    os.waitpid(between, 0)
    message = receive_message(ours)
    if message is None:
        raise InternalError("launcher.init", "the workload's parent can't be started")
    send_message(ours, {"kind": "adopted"})
    return message.take("pid", int), ours


def _receive_secrets(control: socket.socket) -> tuple[dict[str, Secret], list[Secret]]:
    """Secrets by name, and what the launcher minted for the contract's certificate."""
    message = receive_message(control)
    if message is None:
        raise _LauncherGoneError
    values = message.take_map("secrets")
    minted = [Secret(each) for each in message.take_list("minted") if isinstance(each, bytes)]
    return {name: Secret(values.take(name, bytes)) for name in values.names()}, minted


def _watch(control: socket.socket, to_init: socket.socket, init: int, launcher: int) -> int:
    """Pass on what init says and what the launcher signals; returns the workload's status."""

    def forward(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGTERM and os.getppid() != launcher:
            raise _LauncherGoneError
        with contextlib.suppress(ProcessLookupError):
            os.kill(init, number)

    for number in FORWARDED:
        signal.signal(number, forward)
    while (message := receive_message(to_init)) is not None:
        kind = message.take("kind", str)
        if kind == "exit":
            return message.take("status", int)
        if kind == "error":
            raise error_from(message)
        send_message(control, {"kind": "started", "pid": message.take("pid", int)})
    raise InternalError("launcher.init", "the workload's parent was killed")


def _heed_no_more() -> None:
    """From here on everything is taken down, and nothing may cut that short."""
    for number in FORWARDED:
        signal.signal(number, signal.SIG_IGN)


def _end_everything(init: int) -> None:
    """End init and with it its pid namespace; without one, every process we adopted."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, signal.SIGKILL)
    linux.end_every_child()


def _report(control: socket.socket, error: CasemateError) -> None:
    with contextlib.suppress(OSError):
        send_message(control, error_message(error))
