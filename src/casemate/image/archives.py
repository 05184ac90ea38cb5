"""Tar archives of others, read with `tarfile` and within bounds.

`tarfile` takes as much memory as a header asks for, and gives every member a copy of what a global
header says; both are bounded here.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

_MAX_HEADER = 8 << 20
_MAX_MEMBERS = 4_000_000
_MAX_RECORDS = 4096  # of a PAX header: two for each extended attribute that Linux lets a file have

Malformed = Callable[[str, str], Exception]


@contextmanager
def opened_tar(file: IO[bytes], malformed: Malformed) -> Iterator[tarfile.TarFile]:
    """A plain tar archive, of which no header is read that is larger than any real one.

    Args:
        file: at its start; seekable.
        malformed: makes the error for what is beyond a bound: field, what it is.

    Raises:
        tarfile.TarError: as `tarfile` does.
    """
    limited = cast("IO[bytes]", _Limited(file, malformed))
    with tarfile.open(fileobj=limited, mode="r:") as archive:
        yield archive


def tar_members(archive: tarfile.TarFile, malformed: Malformed) -> Iterator[tarfile.TarInfo]:
    """The members of an archive, in its order.

    Args:
        archive: from `opened_tar`.
        malformed: as there.

    Raises:
        tarfile.TarError, ValueError, OverflowError, EOFError, KeyError: as `tarfile` does.
    """
    for count, info in enumerate(archive):
        if count >= _MAX_MEMBERS:
            raise malformed("number of members", f"more than {_MAX_MEMBERS}")
        if len(info.pax_headers) > _MAX_RECORDS:
            raise malformed("header", f"one of {len(info.pax_headers)} records")
        yield info


class _Limited:
    """A file of which nothing is read in large pieces: headers say how long they are."""

    def __init__(self, file: IO[bytes], malformed: Malformed) -> None:
        self._file = file
        self._malformed = malformed
        self.tell = file.tell

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if offset < 0 and whence == os.SEEK_SET:
            raise self._malformed("header", "one of a member that ends before it begins")
        return self._file.seek(offset, whence)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise self._malformed("header", f"one of {size} bytes")
        return self._file.read(size)

    def seekable(self) -> bool:
        return True
