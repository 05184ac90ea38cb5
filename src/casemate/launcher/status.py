"""What the launcher tells people and programs while it works."""

from __future__ import annotations

import json
import sys
import threading
import time


class Status:
    """Report events: a sentence on stderr, and with ``as_json`` a line of JSON on stdout.

    Args:
        as_json: whether to write JSON.
        began: `time.monotonic` at the start, to which times refer.
    """

    def __init__(self, *, as_json: bool, began: float) -> None:
        self._as_json = as_json
        self._began = began
        self._lock = threading.Lock()

    def tell(self, event: str, sentence: str | None = None, **details: object) -> None:
        """Report an event.

        Args:
            event: its name, for programs.
            sentence: for people; None for events that only programs care about.
            details: JSON-ready values, for programs.
        """
        with self._lock:  # one line at a time, and in the order of their times
            if sentence is not None:
                sys.stderr.write(f"casemate launch: {sentence}\n")
                sys.stderr.flush()
            if self._as_json:
                line = {
                    "event": event,
                    "seconds": round(time.monotonic() - self._began, 4),
                    **details,
                }
                sys.stdout.write(json.dumps(line) + "\n")
                sys.stdout.flush()
