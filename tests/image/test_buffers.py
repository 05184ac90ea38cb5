"""Buffers begin where the kernel copies fastest, and belong to one process."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from casemate.image.buffers import page_buffer, slots


def _address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@pytest.mark.parametrize("head", [0, 16, 4095, 4096, 4097])
def test_what_is_behind_the_head_begins_with_a_page(head: int) -> None:
    buffer = page_buffer(head + 100, head=head)
    assert len(buffer) == head + 100
    assert not any(buffer)
    assert (_address(buffer) + head) % mmap.PAGESIZE == 0


def test_slots_begin_with_lines_of_the_cache_and_do_not_overlap() -> None:
    rooms = slots(3, 80)
    assert [len(room) for room in rooms] == [80, 80, 80]
    assert _address(rooms[0]) % mmap.PAGESIZE == 0
    assert [_address(room) - _address(rooms[0]) for room in rooms] == [0, 128, 256]


def test_a_forked_process_has_its_own() -> None:
    """A mount forks its servers: with one buffer for all, they would decrypt over each other."""
    buffer = page_buffer(8)
    child = os.fork()
    if child == 0:
        buffer[:] = b"theirs!!"
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert bytes(buffer) == bytes(8)
