"""Requests are counted in and out, so that the server neither drowns nor drops them."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from casemate.serving.status import Code, RequestError

_SWEEP_SECONDS: Final = 0.25
_PATIENCE_SECONDS: Final = 1.0
# So many times as many as may wait for long may wait at all.
_CROWD: Final = 8
# For models, libraries and whatever else a process opens besides its connections.
_OTHER_FILES: Final = 128


def connections_of_a_port(most: int) -> int:
    """How many connections one of two ports may hold, so that the process never lacks files.

    A server without one left accepts nobody on any port, and loads no model.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return most
    return max(1, min(most, (files - _OTHER_FILES) // 2))


class Waits:
    """Requests that wait for their client: to send its message, or to read its answer.

    Each holds a thread or memory, and nothing makes a client go on. So one that takes too long is
    given up, and when too many wait the one that has waited longest makes room for the next. Of a
    crowd that comes at once each waits for a moment, and no client is to blame: that is let be.

    Args:
        most: how many may wait at once for longer than ``patience``.
        seconds: how long each may.
        patience: how long nobody makes room for others.
    """

    def __init__(self, most: int, seconds: float, *, patience: float = _PATIENCE_SECONDS) -> None:
        self._most = most
        self._seconds = seconds
        self._patience = patience
        self._lock = threading.Lock()
        # Since when, by arrival: the first has waited longest.
        self._waiting: dict[object, tuple[float, Callable[[], object]]] = {}
        threading.Thread(target=self._sweep, name="waits", daemon=True).start()

    def begin(self, give_up: Callable[[], object]) -> object:
        """Begin to wait; ``give_up`` ends the wait from another thread. Returns what ends it."""
        key, now = object(), time.monotonic()
        with self._lock:
            evicted = self._make_room(now)
            self._waiting[key] = (now, give_up)
        if evicted is not None:
            evicted()
        return key

    def end(self, key: object) -> None:
        """The client went on."""
        with self._lock:
            self._waiting.pop(key, None)

    @contextlib.contextmanager
    def waiting(self, give_up: Callable[[], object]) -> Iterator[None]:
        """The same as a block."""
        key = self.begin(give_up)
        try:
            yield
        finally:
            self.end(key)

    def _make_room(self, now: float) -> Callable[[], object] | None:
        """Take the one that has waited longest, if it has to make room for one more."""
        if len(self._waiting) < self._most:
            return None
        longest = next(iter(self._waiting))
        since, give_up = self._waiting[longest]
        if now - since < self._patience and len(self._waiting) < _CROWD * self._most:
            return None
        del self._waiting[longest]
        return give_up

    def _sweep(self) -> None:
        while True:
            time.sleep(_SWEEP_SECONDS)
            now, late = time.monotonic(), []
            with self._lock:
                for key, (since, give_up) in tuple(self._waiting.items()):
                    if since + self._seconds > now:
                        break
                    del self._waiting[key]
                    late.append(give_up)
                while len(self._waiting) > self._most and (evicted := self._make_room(now)):
                    late.append(evicted)
            for give_up in late:
                give_up()


class Gate:
    """Lets a bounded number of requests compute, and none once it is closed.

    Args:
        most: how many may compute or wait for their turn at once.
        most_bytes: how large their messages may be, all together; one alone may be larger.
    """

    def __init__(self, most: int, most_bytes: int = 1 << 30) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._quiet = threading.Condition()
        self._computing = 0
        self._inside = 0
        self._closed = False

    def enter(self, size: int = 0) -> None:
        """Count a request in, whose message holds ``size`` bytes.

        Raises:
            RequestError: ``serving.draining``, ``serving.busy``.
        """
        with self._quiet:
            if self._closed:
                raise RequestError(
                    Code.UNAVAILABLE,
                    "serving.draining",
                    "the server is shutting down: ask another",
                )
            if self._computing >= self._most:
                raise RequestError(
                    Code.RESOURCE_EXHAUSTED,
                    "serving.busy",
                    "the server has as many requests as it can hold",
                    expected=f"at most {self._most} at once",
                    remedy="Ask again later.",
                )
            if self._bytes and self._bytes + size > self._most_bytes:
                raise RequestError(
                    Code.RESOURCE_EXHAUSTED,
                    "serving.busy",
                    "the server holds as many bytes of requests as it can",
                    expected=f"at most {self._most_bytes} bytes at once",
                    remedy="Ask again later.",
                )
            self._computing += 1
            self._inside += 1
            self._bytes += size

    def computed(self, size: int = 0) -> None:
        """A request has its answer, which its client may yet have to read."""
        with self._quiet:
            self._computing -= 1
            self._bytes -= size

    def leave(self) -> None:
        """Count a request out: its answer has gone to the transport."""
        with self._quiet:
            self._inside -= 1
            self._quiet.notify_all()

    def close(self, seconds: float) -> None:
        """Let no more in, and wait up to ``seconds`` for those inside."""
        with self._quiet:
            self._closed = True
            self._quiet.wait_for(lambda: not self._inside, seconds)
