"""Whose turn it is: to be worked on, and then to compute, both in order of arrival.

As many compute at a time as there are cores. More gain nothing, and each takes the longer for the
others. Those that wait for that have been read and checked, so that a core has the next as soon as
it is free.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from casemate.serving.core import late
from casemate.serving.dtypes import Array

# Server's end waits for threads of this name: the engine can't be stopped at it.
THREADS_NAME: Final = "engine_turns"

Compute: TypeAlias = Callable[[], list[Array]]


class Line:
    """Lets a few in at a time, in order of arrival, which Python's own semaphore doesn't keep.

    Args:
        most: how many may be inside.
    """

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._free = most
        self._waiting: deque[threading.Event] = deque()

    @contextlib.contextmanager
    def inside(self, deadline: float) -> Iterator[None]:
        """Wait to be let in, and be inside for the block.

        Args:
            deadline: when it is too late, on the monotonic clock.

        Raises:
            RequestError: ``serving.deadline``.
        """
        self._enter(deadline)
        try:
            yield
        finally:
            with self._lock:
                if self._waiting:
                    self._waiting.popleft().set()
                else:
                    self._free += 1

    def _enter(self, deadline: float) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(_patience(deadline)):
            return
        with self._lock:
            # Else it was let in just now.
            if mine in self._waiting:
                self._waiting.remove(mine)
                raise late()


class _Waiting:
    """A request that waits for its turn, and then for its results."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._results: list[Array] = []
        self._error: Exception | None = None
        self.done = threading.Event()

    def work(self) -> None:
        """Compute for it."""
        try:
            self._results = self._compute()
        except Exception as error:  # noqa: BLE001 (it is raised again for whoever waits)
            self._error = error
        self.done.set()

    def results(self) -> list[Array]:
        """What came of it."""
        if self._error is not None:
            raise self._error
        return self._results


class Turns:
    """Gives turns.

    A request that finds a turn free computes on its own thread. One that has to wait is computed by
    a thread that goes from one to the next while any wait: between two of them Python's lock
    needn't change hands, which would leave the core idle as long as another thread is in Python.

    Args:
        most: how many compute at a time.
    """

    def __init__(self, most: int) -> None:
        self._lock = threading.Lock()
        self._free = most
        self._waiting: deque[_Waiting] = deque()
        self._threads = ThreadPoolExecutor(most, THREADS_NAME)

    def run(self, compute: Compute, deadline: float | None) -> list[Array]:
        """Compute when it is this request's turn.

        Args:
            compute: what to do.
            deadline: when it is too late to begin, on the monotonic clock.

        Raises:
            RequestError: ``serving.deadline``.
            Exception: whatever ``compute`` raises.
        """
        mine = None
        with self._lock:
            if self._free:
                self._free -= 1
            else:
                mine = _Waiting(compute)
                self._waiting.append(mine)
        if mine is not None:
            self._wait(mine, deadline)
            return mine.results()
        try:
            return compute()
        finally:
            self._pass_on()

    def close(self) -> None:
        """Let go of threads. Calls that are still under way end as they would have."""
        self._threads.shutdown(wait=False)

    def _wait(self, mine: _Waiting, deadline: float | None) -> None:
        if mine.done.wait(None if deadline is None else _patience(deadline)):
            return
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                raise late()
        # Its turn has come meanwhile, and what has begun can't be stopped.
        mine.done.wait()

    def _pass_on(self) -> None:
        waiting = self._next()
        if waiting is None:
            return
        try:
            self._threads.submit(self._work, waiting)
        except RuntimeError:  # no more threads
            self._work(waiting)

    def _work(self, waiting: _Waiting | None) -> None:
        while waiting is not None:
            waiting.work()
            waiting = self._next()

    def _next(self) -> _Waiting | None:
        """Who has waited longest; if nobody does, the turn is free."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._free += 1
            return None


def _patience(deadline: float) -> float:
    """Seconds until then; clients without a deadline seem to have one in a distant future."""
    return max(0.0, min(deadline - time.monotonic(), threading.TIMEOUT_MAX))
