"""Answers on their way to launchers: bounded, for nothing makes a launcher read its own."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Answers:
    """Answers that launchers have yet to read.

    gRPC keeps each in memory until then. So when they are too large together, those that have been
    there longest are given up.

    Args:
        most: bytes that they may have together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._together = 0
        # By the time they set out: the first has been on its way longest.
        self._leaving: dict[object, tuple[int, Callable[[], object]]] = {}

    def set_out(self, size: int, give_up: Callable[[], object]) -> Callable[[], None]:
        """An answer sets out.

        Args:
            size: in bytes.
            give_up: ends the call from another thread.

        Returns:
            To be called once it has arrived, or is lost.
        """
        key, late = object(), []
        with self._lock:
            while self._leaving and self._together + size > self._most:
                taken, end = self._leaving.pop(next(iter(self._leaving)))
                self._together -= taken
                late.append(end)
            self._leaving[key] = (size, give_up)
            self._together += size
        for end in late:
            end()
        return lambda: self._arrived(key)

    def _arrived(self, key: object) -> None:
        with self._lock:
            size, _ = self._leaving.pop(key, (0, None))
            self._together -= size
