"""Steps on threads: each once, by however many threads there can be."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from casemate.image.workers import Meter, Step, run_steps


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("room", [0, 1, 9])
def test_each_step_is_done_once_by_as_many_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, threads: int, room: int
) -> None:
    start, started = threading.Thread.start, 0

    def start_or_not(thread: threading.Thread) -> None:
        nonlocal started
        if started == room:
            raise RuntimeError("can't start new thread")
        started += 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_not)
    done: list[int] = []
    told: list[tuple[int, int]] = []

    @contextmanager
    def worker() -> Iterator[Step]:
        yield lambda index: done.append(index) or 10

    run_steps(7, threads, Meter(70, lambda *amounts: told.append(amounts)), worker)
    assert sorted(done) == list(range(7))
    assert told[-1] == (70, 70)
    assert started == min(room, threads - 1)


def test_an_error_of_any_thread_is_raised_when_all_have_ended() -> None:
    done: list[int] = []

    def step(index: int) -> int:
        if index == 3:
            raise OSError("no")
        done.append(index)
        return 1

    @contextmanager
    def worker() -> Iterator[Step]:
        yield step

    with pytest.raises(OSError, match="no"):
        run_steps(20, 3, Meter(20, None), worker)
    assert not [each for each in threading.enumerate() if each.name.startswith("casemate-image")]
    assert 3 not in done
