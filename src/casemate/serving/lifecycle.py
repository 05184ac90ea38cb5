"""Requests are counted in and out, so that the server neither drowns nor drops them."""

from __future__ import annotations

import threading

from casemate.serving.status import Code, RequestError


class Gate:
    """Lets a bounded number of requests in, and none once it is closed.

    Args:
        most: how many may be inside at once, waiting included.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._quiet = threading.Condition()
        self._inside = 0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the server is going down."""
        return self._closed

    def enter(self) -> None:
        """Count a request in.

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
            if self._inside >= self._most:
                raise RequestError(
                    Code.RESOURCE_EXHAUSTED,
                    "serving.busy",
                    "the server has as many requests as it can hold",
                    expected=f"at most {self._most} at once",
                    remedy="Ask again later.",
                )
            self._inside += 1

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
