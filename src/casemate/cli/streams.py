"""Standard output and errors whose errors say which of the two can't be written.

What the system says of a write names no file: who caught it at a process's edge could only guess
that it was the output.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STREAMS = {"<stdout>": "stdout", "<stderr>": "stderr"}
"""What they are called in errors: Python's own names."""


class _Named(io.FileIO):
    """A descriptor that others also have; an OSError of writing to it has its name."""

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._called = name

    def write(self, content: ReadableBuffer, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            error.filename = self._called
            raise


def name_streams() -> None:
    """Put such streams in the place of Python's own; what is closed stays so."""
    if sys.stdout is not None:
        sys.stdout = _named(sys.stdout, "<stdout>")
    if sys.stderr is not None:
        sys.stderr = _named(sys.stderr, "<stderr>")


def _named(stream: TextIO, name: str) -> TextIO:
    assert isinstance(stream, io.TextIOWrapper), "at a process's start they are"
    return io.TextIOWrapper(
        io.BufferedWriter(_Named(stream.fileno(), name)),
        encoding=stream.encoding,
        errors=stream.errors,
        newline="\n",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
