"""Waiting for requests, on pipes: fast while they come fast, asleep otherwise."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from casemate.image.fuse_servers import Requests


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_DIRECT)  # what was written apart is read apart, as from the device
    yield ends
    for end in ends:
        os.close(end)


def sent_later(descriptor: int, *waits: float) -> threading.Thread:
    def send() -> None:
        for wait in waits:
            time.sleep(wait)
            os.write(descriptor, b"later")

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def test_requests_are_given_as_they_come(pipe: tuple[int, int]) -> None:
    requests = Requests(pipe[0])
    for sent in (b"one", b"another", b"x" * 4096, b"y"):
        os.write(pipe[1], sent)
        found = requests.next()
        assert found is not None
        assert bytes(found) == sent


def test_a_request_that_does_not_come_soon_is_awaited_asleep(pipe: tuple[int, int]) -> None:
    requests = Requests(pipe[0])
    for _ in range(10):
        os.write(pipe[1], b"fast")
        requests.next()
    sender = sent_later(pipe[1], 0.3)
    before = time.thread_time()
    assert requests.next() is not None
    assert time.thread_time() - before < 0.1
    sender.join()


def test_requests_that_come_slowly_are_awaited_asleep_at_once(pipe: tuple[int, int]) -> None:
    """Each would otherwise cost a moment of asking in vain."""
    requests = Requests(pipe[0])
    sender = sent_later(pipe[1], *[0.005] * 40)
    requests.next()
    before, late = time.thread_time(), 0
    for _ in range(39):
        asked = time.perf_counter()
        requests.next()
        late += time.perf_counter() - asked < 0.001  # it had come: a busy machine kept us from it
    assert time.thread_time() - before < 0.006 + late * 0.0004
    sender.join()


def test_another_holder_of_the_descriptor_keeps_nobody_awake(pipe: tuple[int, int]) -> None:
    """Without clones, servers share one open file, and what one of them says about waiting."""
    requests = Requests(pipe[0])
    os.set_blocking(pipe[0], False)
    sender = sent_later(pipe[1], 0.3)
    before = time.thread_time()
    assert requests.next() is not None
    assert time.thread_time() - before < 0.1
    sender.join()


def test_a_descriptor_that_is_gone_ends_it() -> None:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    assert Requests(read).next() is None
