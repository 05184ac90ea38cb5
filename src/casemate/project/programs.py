"""Run Casemate's own programs as processes, and never leave one behind."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from casemate.errors import InternalError, UnavailableError

_PR_SET_PDEATHSIG = 1
_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.02


def casemate_command(*arguments: str) -> list[str]:
    """The argument list that runs ``casemate ARGUMENTS`` with this interpreter."""
    return [sys.executable, "-I", "-m", "casemate.cli.start", *arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that has ended: exit status, and what it printed."""

    status: int
    stdout: str
    stderr: str


def run_program(command: Sequence[str], *, timeout: float = 120.0) -> Finished:
    """Run a program to its end; it dies with this process.

    Raises:
        UnavailableError: ``program.timeout`` where it takes longer than ``timeout`` seconds.
    """
    process: subprocess.Popen[str] | None = None
    try:
        with undisturbed():  # from its start on we must know of it
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            "program.timeout",
            f"'{' '.join(command[3:6])}' took too long",
            expected=f"at most {timeout:.0f} s",
        ) from error
    finally:
        if process is not None:
            _stop(process)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
    return Finished(status=process.returncode, stdout=stdout, stderr=stderr)


@dataclass(frozen=True, slots=True)
class Service:
    """A program that runs in the background."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for(self, ready: Callable[[], bool], *, timeout: float) -> None:
        """Wait until ``ready()``, while the program runs.

        Raises:
            UnavailableError: ``program.ended`` with the end of its log, ``program.timeout``.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None:
                raise UnavailableError(
                    "program.ended",
                    f"the {self.name} ended with status {self.process.returncode} "
                    f"before it was ready:\n{self.tail()}",
                )
            if time.monotonic() > deadline:
                raise UnavailableError(
                    "program.timeout",
                    f"the {self.name} wasn't ready in {timeout:.0f} s:\n{self.tail()}",
                )
            time.sleep(_POLL_SECONDS)

    def tail(self, lines: int = 12) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Services(contextlib.AbstractContextManager["Services"]):
    """Background programs, each stopped in reverse order at the end, however it comes."""

    def __init__(self) -> None:
        self._services: list[Service] = []

    def start(self, name: str, command: Sequence[str], *, log: Path) -> Service:
        """Start a program that writes to ``log`` and dies with this process."""
        with log.open("ab") as output, undisturbed():  # from its start on we must know of it
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for us; we end the programs in order
                preexec_fn=_die_with_parent,
            )
            service = Service(name, process, log)
            self._services.append(service)
        return service

    def stop(self) -> tuple[tuple[str, int], ...]:
        """Stop them all, and return each one's exit status."""
        statuses = []
        while self._services:
            service = self._services[-1]
            statuses.append((service.name, _stop(service.process)))
            self._services.pop()
        return tuple(statuses)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        del kind, error, trace
        self.stop()


def pick_port(wanted: int, *, host: str = "127.0.0.1") -> int:
    """``wanted``, or a free port where it is taken.

    Another program may take the port before it is used; then that use fails with its own error.
    """
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                chosen: int = probe.getsockname()[1]
                return chosen
    raise InternalError("program.port", f"no free port on {host}")


@contextlib.contextmanager
def reserved_port(wanted: int, *, host: str = "127.0.0.1") -> Iterator[int]:
    """As `pick_port`; and within, nobody else gets the port from here, used yet or not.

    A demo tells its programs their ports long before they listen. Two at a time would otherwise
    send one's client to the other's server, which it then rightly refuses.
    """
    with socket.socket(socket.AF_UNIX) as claim:
        while True:
            port = pick_port(wanted, host=host)
            try:
                claim.bind(f"\0casemate-port-{port}")  # where ports are: of the network namespace
            except OSError:
                wanted = 0
            else:
                break
        yield port


def answers(port: int, *, host: str = "127.0.0.1") -> bool:
    """Whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False


@contextlib.contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Within, SIGTERM and SIGHUP end the program the way Ctrl-C does: with its clean-up.

    One that is ignored stays so: ``nohup`` means it.
    """

    def interrupt(number: int, frame: object) -> None:
        del number, frame
        raise KeyboardInterrupt

    previous = {
        number: signal.signal(number, interrupt)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> int:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within, Ctrl-C and its like wait; they come into effect at the end.

    Not by masking them: a signal then goes to another thread, and Python heeds it all the same.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are heeded there alone
        yield
        return
    waiting: list[int] = []

    def remember(number: int, frame: object) -> None:
        del frame
        waiting.append(number)

    def heed() -> None:
        for number in waiting:
            signal.raise_signal(number)

    with contextlib.ExitStack() as stack:
        stack.callback(heed)
        for number in _STOPS:
            stack.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(number, remember)
        yield


def _die_with_parent() -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
