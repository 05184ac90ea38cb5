"""What the launcher tells people and programs while it works."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Literal

from casemate.errors import UsageError


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

        Raises:
            UsageError: ``launcher.output``.
        """
        with self._lock:  # one line at a time, and in the order of their times
            if sentence is not None:
                say("stderr", f"casemate launch: {sentence}")
            if self._as_json:
                line = {
                    "event": event,
                    "seconds": round(time.monotonic() - self._began, 4),
                    **details,
                }
                say("stdout", json.dumps(line))


def say(stream: Literal["stdout", "stderr"], line: str) -> None:
    """Write a line at once.

    Raises:
        UsageError: ``launcher.output``; nothing more is written to that stream then.
    """
    output = sys.stdout if stream == "stdout" else sys.stderr
    if output is None:  # closed where the launcher began, or full since
        return
    try:
        output.write(line + "\n")
        output.flush()
    except OSError as error:
        setattr(sys, stream, None)  # else Python tries at its end what it still holds
        raise UsageError(
            "launcher.output",
            f"what the launcher does can't be written to {stream}",
            field=stream,
            got=error.strerror or str(error),
            remedy="Make room where it goes, or read it as long as the launcher runs.",
        ) from error
