"""Memory to read into, encrypt into and write from, where the kernel copies fastest."""

from __future__ import annotations

import mmap

_LINE = 64  # bytes that a processor moves between its caches at once


def page_buffer(size: int, *, head: int = 0) -> memoryview:
    """So many zero bytes, of which those behind the head begin with a page of memory.

    The kernel copies to and from such an address at up to twice the speed that it has for a large
    ``bytearray``, whose bytes begin 16 or 32 behind a page's first.

    Args:
        size: in bytes, at least 1.
        head: of these, the ones that something short comes before the rest in, in bytes.

    Raises:
        MemoryError: where there's none left.
    """
    before = -head % mmap.PAGESIZE
    try:
        # Private: Python's default would share the memory with every process forked from here.
        pages = mmap.mmap(-1, before + size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        return memoryview(pages)[before:]
    except OSError as error:
        raise MemoryError(f"{size} bytes") from error


def slots(count: int, size: int) -> list[memoryview]:
    """So many buffers, each at the beginning of a cache line, the first of a page.

    Args:
        count: of buffers.
        size: of each, in bytes.

    Raises:
        MemoryError: where there's none left.
    """
    stride = size + -size % _LINE
    whole = page_buffer(count * stride)
    return [whole[at : at + size] for at in range(0, count * stride, stride)]
