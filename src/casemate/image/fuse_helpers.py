"""Who serves a mount besides its first thread.

Processes, for the interpreter's lock holds threads back; and in each a thread that stores what was
decrypted but not asked for.

Two rules keep a mount from hanging. Whoever answers requests never waits for the page cache: the
kernel locks pages that it waits for an answer about, and storing waits for locked pages. And
whoever ends, however that happens, closes its descriptor: the kernel then ends what it had taken.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import logging
import os
import queue
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import (
    CasemateError,
    InternalError,
    MalformedError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)
from casemate.image import fuse_wire as wire

DEVICE = "/dev/fuse"
_CLONE = 0x8004E500  # FUSE_DEV_IOC_CLONE: another descriptor for the same mount
_PR_SET_PDEATHSIG = 1
_MAX_REPORT = 1 << 16
_REQUEST_ROOM = 1 << 16
_AWAKE_SECONDS = 300e-6  # a reader takes 50 to 150 from an answer to its next request
_LISTEN_SECONDS = 5.0
_STORED_AT_ONCE = 8  # chunks; waking a thread for each would cost more than it saves
_MAX_STORES = 2  # such groups that wait; what is more is left to be read again
_PARTS = ("field", "expected", "got", "remedy")
_KINDS = {
    kind.exit_code: kind
    for kind in (InternalError, UsageError, MalformedError, NotGenuineError, UnavailableError)
}
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM)
_LOG = logging.getLogger(__name__)

_Item = tuple[int, int, memoryview]


class Helpers:
    """Processes that serve the same mount. Start them before any thread that serves it.

    Args:
        count: how many; fewer where the machine doesn't let us.
        device: the mount's descriptor.
        keep: other descriptors that a helper needs; it closes all but these.
        serve: serves one descriptor until the mount is gone; told whom to report errors to.
    """

    def __init__(
        self,
        count: int,
        device: int,
        *,
        keep: Sequence[int],
        serve: Callable[[int, Callable[[CasemateError], None]], None],
    ) -> None:
        self._pids: list[int] = []
        self._reports, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._go: list[int] = []
        self._listener: threading.Thread | None = None
        parent = os.getpid()
        for _ in range(count):
            wait, go = os.pipe()
            try:
                pid = os.fork()
            except OSError as error:
                _LOG.warning("a helper of a mount can't be started: %s", error.strerror)
                os.close(wait)
                os.close(go)
                break
            if pid == 0:
                _be_helper(parent, device, wait, theirs, keep, serve)
            os.close(wait)
            self._pids.append(pid)
            self._go.append(go)
        theirs.close()

    def begin(self, on_error: Callable[[CasemateError], None]) -> None:
        """Let them serve: the mount is ready. Their errors are passed on from a thread."""
        for go in self._go:
            with contextlib.suppress(BrokenPipeError):
                os.write(go, b"1")
        self._forget_pipes()
        self._listener = threading.Thread(
            target=self._pass_on, args=(on_error,), name="casemate-fuse-errors", daemon=True
        )
        self._listener.start()

    def end(self) -> None:
        """End them; the mount is gone, or never came to be."""
        self._forget_pipes()
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # whoever reaps every child was faster
                os.waitpid(pid, 0)
        self._pids.clear()
        if self._listener is not None:
            self._listener.join(_LISTEN_SECONDS)  # it ends when the last helper has
        self._reports.close()

    def _forget_pipes(self) -> None:
        for go in self._go:
            os.close(go)
        self._go.clear()

    def _pass_on(self, on_error: Callable[[CasemateError], None]) -> None:
        while report := self._reports.recv(_MAX_REPORT):
            on_error(_parsed(report))


def _be_helper(
    parent: int,
    device: int,
    wait: int,
    reports: socket.socket,
    keep: Sequence[int],
    serve: Callable[[int, Callable[[CasemateError], None]], None],
) -> NoReturn:
    try:
        for number in _IGNORED:  # whoever mounted heeds them, and unmounts
            signal.signal(number, signal.SIG_IGN)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        _close_all_but({0, 1, 2, device, wait, reports.fileno(), *keep})
        if os.getppid() == parent and os.read(wait, 1):
            mine = clone(device)
            os.close(device)
            serve(mine, lambda error: _report(reports, error))
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    """Nothing of a helper may keep a socket or a pipe open that its parent has closed."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the one that the list was read from
                os.close(int(name))


def clone(descriptor: int) -> int:
    """A descriptor of its own for another server, or the same again on a kernel without that."""
    try:
        other = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return os.dup(descriptor)
    try:
        fcntl.ioctl(other, _CLONE, struct.pack("=I", descriptor))
    except OSError:
        os.close(other)
        return os.dup(descriptor)
    return other


def _report(reports: socket.socket, error: CasemateError) -> None:
    parts = {name: getattr(error, name) for name in _PARTS if getattr(error, name) is not None}
    message = {"cause": error.exit_code, "code": error.code, "message": error.message, **parts}
    with contextlib.suppress(OSError):
        reports.send(encode_cbor(message)[:_MAX_REPORT])


def _parsed(report: bytes) -> CasemateError:
    message = MapReader(decode_cbor(report, what="report", max_size=_MAX_REPORT), what="report")
    kind = _KINDS[message.take("cause", int)]
    parts = {name: message.take_optional(name, str) for name in _PARTS}
    return kind(message.take("code", str), message.take("message", str), **parts)


class Requests:
    """The kernel's requests on one descriptor, one after the other.

    Waking a processor that sleeps takes longer than answering a small read. So who answered asks
    for the next request for a moment before sleeping, and lets others run in between; but only
    while requests come that fast: where the last one took longer, this sleeps at once. With one
    processor there is nothing to keep awake.

    Args:
        device: the mount's descriptor.
    """

    def __init__(self, device: int) -> None:
        self._descriptor = device
        self._room = memoryview(bytearray(_REQUEST_ROOM))
        self._longest = _AWAKE_SECONDS if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._awake = 0.0  # for how long to ask again
        self._sleeps = True  # whether the descriptor waits for a request

    def next(self) -> memoryview | None:
        """The next request, until this is called again; None where the mount is gone."""
        answered = time.perf_counter()
        if self._sleeps != (self._awake == 0.0):
            self._let_sleep(not self._sleeps)
        while True:
            try:
                length = os.readv(self._descriptor, (self._room,))
            except BlockingIOError:
                if time.perf_counter() - answered < self._awake:
                    os.sched_yield()
                else:
                    self._let_sleep(True)
            except OSError as error:
                if error.errno not in (errno.EINTR, errno.ENOENT):
                    return None  # ENODEV, ECONNABORTED: unmounted
                # A request that was withdrawn before we took it.
            else:
                fast = time.perf_counter() - answered < self._longest
                self._awake = self._longest if fast else 0.0
                return self._room[:length]

    def _let_sleep(self, sleeps: bool) -> None:
        os.set_blocking(self._descriptor, sleeps)
        self._sleeps = sleeps


class Storer:
    """A thread that puts decrypted bytes into the kernel's page cache before they are asked for.

    A small read costs a whole chunk; the rest of it is then there for the next read. Nothing waits
    for this thread, and what it can't store is simply read again.

    Args:
        device: the mount's descriptor. This takes a clone of it: whoever answers can close theirs,
            and so give up what they had taken, while this one waits.
    """

    def __init__(self, device: int) -> None:
        self._descriptor = clone(device)
        self._group: list[_Item] = []
        self._waiting: queue.SimpleQueue[list[_Item] | None] = queue.SimpleQueue()
        self._open = True
        try:
            threading.Thread(target=self._run, name="casemate-fuse-store", daemon=True).start()
        except RuntimeError:  # no more threads; reads are right without it, and slower
            self._open = False
            os.close(self._descriptor)

    def store(self, node: int, offset: int, data: memoryview) -> None:
        """Store ``data`` at ``offset`` of the file ``node``, soon or never."""
        if not self._open:
            return
        self._group.append((node, offset, data))
        if len(self._group) == _STORED_AT_ONCE:
            if self._waiting.qsize() < _MAX_STORES:
                self._waiting.put(self._group)
            self._group = []

    def end(self) -> None:
        """Stop after what is being stored."""
        self._waiting.put(None)

    def _run(self) -> None:
        try:
            while (group := self._waiting.get()) is not None:
                for node, offset, data in group:
                    notice = wire.store_notice(node, offset, len(data))
                    with contextlib.suppress(OSError):  # the kernel has forgotten file or mount
                        os.writev(self._descriptor, [notice, data])
        finally:
            os.close(self._descriptor)
