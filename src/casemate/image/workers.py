"""Run numbered steps on a few threads: the parts that release the interpreter's lock overlap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

Step = Callable[[int], int]
Progress = Callable[[int, int], None]


class Meter:
    """Counts work done and tells a callback, one call at a time.

    Args:
        total: how much there is to do, in bytes.
        progress: called with (done, total) from whichever thread did the work; may be None.
    """

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._total = total
        self._done = 0
        self._progress = progress
        self._lock = threading.Lock()

    def add(self, amount: int) -> None:
        """``amount`` more bytes are done."""
        if self._progress is not None:
            with self._lock:
                self._done += amount
                self._progress(self._done, self._total)


def run_steps(
    count: int, threads: int, meter: Meter, worker: Callable[[], AbstractContextManager[Step]]
) -> None:
    """Do steps 0 to ``count`` - 1, each once, on up to ``threads`` threads.

    Args:
        count: how many steps.
        threads: at least 1, the calling one; fewer where the machine has no room for more.
        meter: is told what each step returns: how many bytes it did.
        worker: makes a thread's own step function (with its own buffers) as a context.

    Raises:
        BaseException: the first error of any thread, after all of them have stopped.
    """
    lock = threading.Lock()
    following = iter(range(count))
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with worker() as step:
                while not errors:
                    with lock:
                        index = next(following, None)
                    if index is None:
                        return
                    meter.add(step(index))
        except BaseException as error:  # noqa: BLE001 - raised again on the calling thread
            errors.append(error)

    helpers: list[threading.Thread] = []
    for number in range(1, min(threads, count)):
        helper = threading.Thread(target=work, name=f"casemate-image-{number}", daemon=True)
        try:
            helper.start()
        except RuntimeError:  # no room for another thread: those that there are do the work
            break
        helpers.append(helper)
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
