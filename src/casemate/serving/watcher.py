"""The thread that looks at folders and the configuration file again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from casemate.errors import CasemateError
from casemate.serving.registry import Registry
from casemate.serving.settings import ModelSettings, parse_model_config, read_text_file

# A file that stays the same for so long isn't being written.
_SETTLE_SECONDS: Final = 0.25
_LOG: Final = logging.getLogger(__name__)


class Watcher:
    """Brings the registry up to date, until it is stopped.

    Args:
        registry: the models.
        poll_seconds: between looks at the folders; 0: none.
        config_file: which models are served; None where flags say it.
        config_poll_seconds: between looks at that file; 0: none.
        apply: serves other models from now on.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        poll_seconds: float,
        config_file: Path | None,
        config_poll_seconds: float,
        apply: Callable[[tuple[ModelSettings, ...]], None],
    ) -> None:
        self._registry = registry
        self._poll_seconds = poll_seconds
        self._config_file = config_file
        self._config_seconds = config_poll_seconds if config_file else 0.0
        self._apply = apply
        self._stop = threading.Event()
        self._unreadable = False
        self._seen = self._content()
        self._thread = threading.Thread(target=self._work, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        if self._poll_seconds or self._config_seconds:
            self._thread.start()

    def stop(self) -> None:
        """Look no more. A load that is under way is not waited for."""
        self._stop.set()

    def _work(self) -> None:
        now = time.monotonic()
        next_poll, next_config = now + self._poll_seconds, now + self._config_seconds
        while True:
            due = [next_poll] if self._poll_seconds else []
            due += [next_config] if self._config_seconds else []
            if self._stop.wait(max(0.0, min(due) - time.monotonic())):
                return
            try:
                if self._config_seconds and time.monotonic() >= next_config:
                    next_config = time.monotonic() + self._config_seconds
                    self._read_config()
                if self._poll_seconds and time.monotonic() >= next_poll:
                    next_poll = time.monotonic() + self._poll_seconds
                    self._registry.poll()
            except CasemateError as error:
                _LOG.warning("what is served can't be brought up to date: %s", error)
            except Exception:  # noqa: BLE001 (the edge of a thread)
                # The thread must live: without it no version would ever come or go again.
                _LOG.exception("looking at the models failed")  # nothing of a request is in it

    def _read_config(self) -> None:
        content = self._content()
        if content is None or content == self._seen:
            return
        # Written in place it is cut short for a while, and may say something else so long.
        if self._stop.wait(_SETTLE_SECONDS) or self._content() != content:
            return
        self._seen = content
        models = parse_model_config(content)
        if models is None:
            _LOG.warning("the models' configuration names no models: what is served stays")
            return
        self._apply(models)
        _LOG.info("the models' configuration was read again")

    def _content(self) -> bytes | None:
        """What the file holds; None where it can't be read, which is said once."""
        if self._config_file is None:
            return None
        try:
            content = read_text_file(self._config_file, code="serving.model-config")
        except CasemateError as error:
            if not self._unreadable:
                _LOG.warning("%s", error)
            self._unreadable = True
            return None
        self._unreadable = False
        return content
