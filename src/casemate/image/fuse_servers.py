"""Who serves a mount: processes, and in each a thread that stores what nobody asked for.

Processes, for the interpreter's lock holds threads back. Whoever waits for an answer that a server
has begun to work on is let go by the kernel, be it killed or not, only when the answer comes, or
when the descriptor is closed through which the server took the request. So these rules keep a mount
from hanging, whoever is killed:

- Who mounted serves nothing, and has no such descriptor. It may use the mount itself.
- Whoever answers never waits for the page cache: the kernel locks pages that it waits for an answer
  about, and storing waits for locked pages.
- Who stores has no descriptor of who answers: else, waiting, it would keep that open.
- Servers end with the thread that forked them. It doesn't use the mount, so it ends at once.
- Where every server is gone, a last process fails what is asked until nobody stores: who stores has
  the mount open, so the kernel would let others wait, and may itself wait for what they had locked.
- Where that one is gone too, the kernel ends the mount after a while; where it can't, nothing is
  stored.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import gc
import logging
import os
import queue
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

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
STANDS_BY = "casemate-stands"  # the name of the process that does
LATE_REQUESTS_END = Path("/proc/sys/fs/fuse/max_request_timeout")
"""It is there where the kernel ends a mount that doesn't answer: Linux 6.14 and later."""
_CLONE = 0x8004E500  # FUSE_DEV_IOC_CLONE: another descriptor for the same mount
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_CLONE_FILES = 0x400
_MAX_REPORT = 1 << 16
_REQUEST_ROOM = 1 << 16
_AWAKE_SECONDS = 300e-6  # a reader takes 50 to 150 from an answer to its next request
_LISTEN_SECONDS = 5.0
_REAP_SECONDS = 0.002
_TELL_SECONDS = 1.0
_STORED_AT_ONCE = 8  # chunks; waking a thread for each would cost more than it saves
_MAX_STORES = 2  # such groups that wait; what is more is left to be read again
_PARTS = ("field", "expected", "got", "remedy")
_KINDS = {
    kind.exit_code: kind
    for kind in (InternalError, UsageError, MalformedError, NotGenuineError, UnavailableError)
}
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM)
_LOG = logging.getLogger(__name__)
_libc = ctypes.CDLL(None, use_errno=True)

_Item = tuple[int, int, memoryview]


class Servers:
    """Processes that serve the same mount, and a thread that forks them and hears of them.

    Args:
        count: how many; fewer where the machine doesn't let us.
        device: the mount's descriptor. It's closed here, whatever happens: when the last server
            has ended, so has the mount.
        keep: other descriptors that a server needs; it closes all but these.
        serve: serves one descriptor until the mount is gone; told what stores for it, and whom to
            tell how it goes.
        on_error: told of their errors, from the thread.

    Raises:
        OSError: there are too many descriptors.
    """

    def __init__(
        self,
        count: int,
        device: int,
        *,
        keep: Sequence[int],
        serve: Callable[[int, Storer, Told], None],
        on_error: Callable[[CasemateError], None],
    ) -> None:
        self._count = count
        self._device = device
        self._keep = keep
        self._serve = serve
        self._on_error = on_error
        self._parent = os.getpid()
        self._pids: list[int] = []
        self._failed: OSError | None = None
        self._init: int | None = None
        self._forked = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="casemate-fuse", daemon=True)
        try:
            self._reports, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            os.close(device)
            raise
        self._theirs.settimeout(_TELL_SECONDS)

    def start(self, seconds: float) -> int | None:
        """Let them serve, and wait for the first answer.

        Args:
            seconds: for how long at most.

        Returns:
            The error number with which the kernel's first request (INIT) was answered, 0 where it
            was accepted, None where nobody answered in time.

        Raises:
            OSError: no server could be started.
            RuntimeError: no thread could.
        """
        try:
            self._thread.start()
        except RuntimeError:
            self._theirs.close()
            os.close(self._device)
            raise
        self._ready.wait(seconds)
        if self._failed is not None:
            raise self._failed
        return self._init

    def serve(self) -> bool:
        """Whether one of them does."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Return when none serves any more."""
        while self.serve():
            self._thread.join(0.5)  # in steps, so that signals are handled in between

    def end(self) -> None:
        """End them; the mount is gone, or never came to be."""
        if self._thread.ident is not None:
            self._forked.wait(_LISTEN_SECONDS)  # starting may have been cut short
        standby, servers = self._pids[:1], self._pids[1:]
        _kill(servers)
        # Who stands by ends by itself. Where somebody else unmounted, and files are still open,
        # it's needed until no server stores any more.
        if not _reaped(self._pids, _LISTEN_SECONDS):
            _kill(standby)
            _reaped(self._pids, _LISTEN_SECONDS)
        if self._thread.ident is not None:
            self._thread.join(_LISTEN_SECONDS)  # it ends when the last server has
        self._reports.close()

    def _run(self) -> None:
        try:
            self._fork()
            while report := self._reports.recv(_MAX_REPORT):
                try:
                    self._hear(report)
                except Exception:  # noqa: BLE001 - the mount ends with this thread
                    _LOG.exception("an error in a mount can't be told of")
        finally:
            self._ready.set()

    def _fork(self) -> None:
        try:
            with _pipe() as (answering, answers), _pipe() as (storing, stores):
                self._child(lambda: self._stand_by(answering, storing), answering, storing)
                for number in range(self._count):
                    try:
                        self._child(lambda: self._answer(stores), answers, stores)
                    except OSError as error:
                        if number == 0:
                            raise
                        _LOG.warning("a server of a mount can't be started: %s", error.strerror)
                        break
        except OSError as error:
            self._failed = error
        finally:
            self._forked.set()
            self._theirs.close()
            os.close(self._device)

    def _child(self, run: Callable[[], None], *kept: int) -> None:
        """Run in a process of its own, which has ``kept`` and the device open."""
        pid = os.fork()
        if pid:
            self._pids.append(pid)
            return
        try:
            gc.freeze()  # garbage of whoever mounted would close numbers that mean others here
            for number in _IGNORED:  # whoever mounted heeds them, and unmounts
                signal.signal(number, signal.SIG_IGN)
            _close_all_but({0, 1, 2, self._device, self._theirs.fileno(), *self._keep, *kept})
            run()
        except Exception:  # noqa: BLE001 - nobody else would tell of it
            _LOG.exception("a process that serves a mount failed")
        finally:
            os._exit(0)

    def _answer(self, stores: int) -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != self._parent:
            return
        mine = clone(self._device)
        os.close(self._device)
        self._serve(mine, Storer(mine, keep=stores), Told(self._theirs))

    def _stand_by(self, answering: int, storing: int) -> None:
        self._theirs.close()
        os.setsid()  # who kills or stops the others as a group doesn't mean this one
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)  # then it's needed, also if stopped
        _libc.prctl(_PR_SET_NAME, STANDS_BY.encode(), 0, 0, 0)
        os.read(answering, 1)  # until no server is left
        os.set_blocking(self._device, False)
        poll = select.poll()
        poll.register(self._device, select.POLLIN)
        poll.register(storing, select.POLLIN)
        room = memoryview(bytearray(_REQUEST_ROOM))
        while all(ready == self._device for ready, _ in poll.poll()):
            if not _fail(self._device, room):
                return

    def _hear(self, report: bytes) -> None:
        message = MapReader(decode_cbor(report, what="report", max_size=_MAX_REPORT), what="report")
        number = message.take_optional("init", int)
        if number is None:
            self._on_error(_parsed(message))
        else:
            self._init = number
            self._ready.set()


class Told:
    """What a server tells whoever mounted. That one may be busy; then it's told no more.

    Args:
        reports: a socket that keeps messages apart.
    """

    def __init__(self, reports: socket.socket) -> None:
        self._reports = reports

    def init(self, number: int) -> None:
        """Tell with which error number INIT was answered."""
        self._tell({"init": number})

    def error(self, error: CasemateError) -> None:
        """Tell of an error that made a request fail."""
        parts = {name: getattr(error, name) for name in _PARTS if getattr(error, name) is not None}
        self._tell(
            {"cause": error.exit_code, "code": error.code, "message": error.message, **parts}
        )

    def _tell(self, message: Mapping[str, str | int]) -> None:
        try:
            self._reports.send(encode_cbor(message)[:_MAX_REPORT])
        except TimeoutError:
            self._reports.settimeout(0)  # or every read that fails would wait as long
        except (OSError, MemoryError):
            pass


def _parsed(message: MapReader) -> CasemateError:
    kind = _KINDS[message.take("cause", int)]
    parts = {name: message.take_optional(name, str) for name in _PARTS}
    return kind(message.take("code", str), message.take("message", str), **parts)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _reaped(pids: list[int], seconds: float) -> bool:
    """Whether all of ``pids`` end in time; those that do are taken off the list."""
    deadline = time.monotonic() + seconds
    while True:
        for pid in tuple(pids):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # whoever reaps every child was faster
                ended = pid
            if ended:
                pids.remove(pid)
        if not pids or time.monotonic() > deadline:
            return not pids
        time.sleep(_REAP_SECONDS)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """Its two ends, for processes that are forked meanwhile."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _fail(device: int, room: memoryview) -> bool:
    """Answer a request with an error; whether the mount is there."""
    try:
        length = os.readv(device, (room,))
        request, _ = wire.parse_request(room[:length])
        if request.op not in wire.UNANSWERED:
            os.write(
                device, wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -errno.ENOTCONN, request.unique)
            )
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EINTR, errno.ENOENT)  # it was withdrawn
    return True


def _close_all_but(kept: set[int]) -> None:
    """Nothing of a server may keep open what others have closed."""
    for name in os.listdir("/proc/thread-self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the one that the list was read from
                os.close(int(name))


def clone(descriptor: int) -> int:
    """A descriptor of its own for another server."""
    other = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(other, _CLONE, struct.pack("=I", descriptor))
    except OSError:
        os.close(other)
        raise
    return other


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
    for this thread, and what it can't store is simply read again. Where the kernel doesn't end a
    mount that nobody answers for, nothing is stored: who stores might wait for ever, if everybody
    who serves is killed at once.

    Args:
        device: the mount's descriptor. The thread takes a clone of it.
        keep: the only other descriptor that the thread has.
    """

    def __init__(self, device: int, *, keep: int) -> None:
        self._device = device
        self._keep = keep
        self._group: list[_Item] = []
        self._waiting: queue.SimpleQueue[list[_Item]] = queue.SimpleQueue()
        self._open = LATE_REQUESTS_END.exists()
        if not self._open:
            return
        try:
            threading.Thread(target=self._run, name="casemate-fuse-store", daemon=True).start()
        except RuntimeError:  # no more threads; reads are right without it, and slower
            self._open = False

    def store(self, node: int, offset: int, data: memoryview) -> None:
        """Store ``data`` at ``offset`` of the file ``node``, soon or never."""
        if not self._open:
            return
        self._group.append((node, offset, data))
        if len(self._group) == _STORED_AT_ONCE:
            if self._waiting.qsize() < _MAX_STORES:
                self._waiting.put(self._group)
            self._group = []

    def _run(self) -> None:
        try:
            descriptor = self._alone()
        except OSError:
            self._open = False
            return
        while True:
            for node, offset, data in self._waiting.get():
                notice = wire.store_notice(node, offset, len(data))
                with contextlib.suppress(OSError):  # the kernel has forgotten file or mount
                    os.writev(descriptor, [notice, data])

    def _alone(self) -> int:
        """Leave the descriptors that all threads share, and have a clone of the mount's.

        Raises:
            OSError: it isn't allowed, or there are too many descriptors.
        """
        if _libc.unshare(_CLONE_FILES) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        mine = clone(self._device)
        _close_all_but({mine, self._keep})
        return mine
