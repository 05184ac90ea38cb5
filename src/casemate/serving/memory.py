"""The C library's allocator: what it does while a model is loaded, and what it keeps afterwards.

Loading copies the weights several times, from the file's bytes to the form that the engine
computes with. By default each copy is mapped when it is made and unmapped when it is done with,
and every page of the next one is a fault again: two thirds of the time that a model takes to load.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from typing import Final

# Source: glibc, ``malloc.h``.
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_THRESHOLD: Final = -3
_WHILE_LOADING: Final = (
    (_MMAP_THRESHOLD, 32 << 20),  # the most it takes
    (_TRIM_THRESHOLD, 1 << 30),
    (_TOP_PAD, 64 << 20),
)
# Requests and answers of a few MiB come from what is there, and little of it is kept idle. (Without
# these it would remember the largest weights instead.)
_AFTERWARDS: Final = (
    (_MMAP_THRESHOLD, 8 << 20),
    (_TRIM_THRESHOLD, 16 << 20),
    (_TOP_PAD, 128 << 10),
)


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Keep memory that is freed within the block for what comes next, and return it at the end."""
    library = ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # only glibc has these calls
        for parameter, value in _WHILE_LOADING:
            library.mallopt(parameter, value)
    try:
        yield
    finally:
        with contextlib.suppress(AttributeError):
            for parameter, value in _AFTERWARDS:
                library.mallopt(parameter, value)
            library.malloc_trim(0)
