"""Progress bars on stderr, for people alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS = 0.05  # some tell of every small file


@contextmanager
def progress_bars() -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Within, a bar can be had for each thing that takes long: it's told bytes done and to do."""
    console = Console(stderr=True)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )

    def bar(what: str) -> Callable[[int, int], None]:
        task = bars.add_task(what, total=None)
        shown = 0.0

        def update(done: int, total: int) -> None:
            nonlocal shown
            now = time.monotonic()
            if not bars.disable and (done >= total or now - shown > _SECONDS):
                shown = now
                bars.update(task, completed=done, total=total)

        return update

    with bars:
        yield bar
