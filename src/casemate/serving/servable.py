"""One loaded version of a model: what requests run on, and how it goes away under them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from casemate.serving.dtypes import Array
from casemate.serving.signature import Signatures


class Runner(Protocol):
    """What computes: a model itself, or batches of one."""

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], deadline: float | None
    ) -> list[Array]:
        """Compute the named outputs from the named inputs, before the deadline if there is one."""

    def close(self) -> None:
        """Let go of threads; no call is under way or follows."""


class Servable:
    """A version that is served.

    Requests enter and leave it; once it is retired no more enter, and what was asked to happen
    after the last one happens then. So nothing is pulled away from under a request.

    Args:
        name: the model's name.
        version: the version's number.
        runner: what computes.
        signatures: the ways to ask.
    """

    def __init__(self, *, name: str, version: int, runner: Runner, signatures: Signatures) -> None:
        self.name = name
        self.version = version
        self.signatures = signatures
        self._runner = runner
        self._lock = threading.Lock()
        self._inside = 0
        self._afterwards: Callable[[], None] | None = None

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], deadline: float | None
    ) -> list[Array]:
        """Compute; see ``Runner``."""
        return self._runner.run(feeds, outputs, deadline)

    def enter(self) -> bool:
        """Begin a request; false where the version is retired."""
        with self._lock:
            if self._afterwards is not None:
                return False
            self._inside += 1
            return True

    def leave(self) -> None:
        """End a request."""
        with self._lock:
            self._inside -= 1
            last = self._afterwards if not self._inside else None
        if last is not None:
            self._end(last)

    def retire(self, afterwards: Callable[[], None]) -> None:
        """Take no more requests, and call ``afterwards`` when the last one has left."""
        with self._lock:
            self._afterwards = afterwards
            empty = not self._inside
        if empty:
            self._end(afterwards)

    def _end(self, afterwards: Callable[[], None]) -> None:
        self._runner.close()
        afterwards()
