"""What the server says of itself: as text, or as JSON lines. Never anything that a client sent."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import Final

from casemate.serving.metrics import Metrics
from casemate.serving.status import Code

_LOG: Final = logging.getLogger("casemate.serving.requests")


class _JsonLines(logging.Formatter):
    """A JSON object a line: time, level, message, and what a record adds as ``fields``."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields = getattr(record, "fields", None)
        if isinstance(fields, dict):
            line.update(fields)
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
        return json.dumps(line)


def set_up(form: str) -> None:
    """Write the server's log to stderr in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _JsonLines() if form == "json" else logging.Formatter("casemate-serving: %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("casemate.serving").setLevel(logging.INFO)


class RequestLog(Metrics):
    """Writes a line for each request, beside what it passes on.

    A line has the model (if it is served), the method, the port's kind, the status and the time.

    Args:
        inner: where everything is passed on to.
    """

    def __init__(self, inner: Metrics) -> None:
        self._inner = inner

    def answered(self, model: str, api: str, entrypoint: str, code: Code, seconds: float) -> None:
        """See ``Metrics``."""
        self._inner.answered(model, api, entrypoint, code, seconds)
        fields = {
            "model": model,
            "method": api,
            "entrypoint": entrypoint,
            "status": code.name,
            "milliseconds": round(seconds * 1e3, 3),
        }
        _LOG.info(
            "request: %s %s over %s: %s in %.1f ms",
            model, api, entrypoint, code.name, seconds * 1e3, extra={"fields": fields},
        )  # fmt: skip

    def computed(self, model: str, api: str, seconds: float) -> None:
        """See ``Metrics``."""
        self._inner.computed(model, api, seconds)

    def phase(self, model: str, phase: str, seconds: float) -> None:
        """See ``Metrics``."""
        self._inner.phase(model, phase, seconds)

    def queued(self, model: str, seconds: float) -> None:
        """See ``Metrics``."""
        self._inner.queued(model, seconds)

    def batched(self, model: str, size: int, padding: int) -> None:
        """See ``Metrics``."""
        self._inner.batched(model, size, padding)

    def loaded(self, path: str, code: Code, seconds: float) -> None:
        """See ``Metrics``."""
        self._inner.loaded(path, code, seconds)

    def page(self) -> bytes:
        """See ``Metrics``."""
        return self._inner.page()
