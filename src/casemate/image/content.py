"""What is in the files of a tree that isn't sealed yet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

from casemate.image.tree import FilePart, TreeEntry

_PIECE = 1 << 20


def content_start(entry: TreeEntry, limit: int) -> bytes:
    """The first bytes of a file; nothing of what is no file.

    Args:
        entry: of the tree.
        limit: how many bytes at most.
    """
    with _opened(entry) as file:
        return file.read(min(limit, entry.size))


def content_pieces(entry: TreeEntry) -> Iterator[bytes]:
    """A file's content in pieces of up to a megabyte; ends early where the file has become shorter.

    Args:
        entry: of the tree.
    """
    left = entry.size
    with _opened(entry) as file:
        while left and (piece := file.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece


@contextmanager
def _opened(entry: TreeEntry) -> Iterator[IO[bytes]]:
    source = entry.source
    if isinstance(source, Path):
        with source.open("rb") as file:
            yield file
    elif isinstance(source, FilePart):
        with source.path.open("rb") as file:
            file.seek(source.offset)
            yield file
    else:
        yield BytesIO(source or b"")
