"""Whose turn it is to compute: as many requests at a time as there are cores, in order of arrival.

More at a time gain nothing, and each takes the longer for the others. Those that wait have been
read and checked, so that a core has the next as soon as it is free.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from casemate.serving.core import late
from casemate.serving.dtypes import Array

# Server's end waits for threads of this name: the engine can't be stopped at it.
THREADS_NAME: Final = "engine_turns"

Compute: TypeAlias = Callable[[], list[Array]]


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
        patience = None if deadline is None else max(0.0, deadline - time.monotonic())
        # Clients without a deadline seem to have one in a distant future.
        if mine.done.wait(min(patience, threading.TIMEOUT_MAX) if patience else patience):
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
