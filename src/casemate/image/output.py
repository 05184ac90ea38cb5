"""A file that several threads write at once, in a way that the kernel does fastest.

It gets its room first, where the file system can give it: blocks or pages in a row cost less than
one by one, and a full disk is known before work is put into it. One thread writes at a time: the
kernel lets no second one in, which would spin before the lock instead of computing. And what is
written goes on its way to the disk at once, so that the last wait is short.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Sequence

_PIECE = 32 << 20  # bytes that are given room, or sent on their way, by one call
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_START_WRITING = 2  # SYNC_FILE_RANGE_WRITE


class Output:
    """A new file of a known length. Any number of threads may use one.

    Args:
        descriptor: of the file, empty, open for writing.
        size: that it will have, in bytes.
    """

    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._with_room = 0  # bytes from the start
        self._written = 0
        self._sent = 0
        self._lock = threading.Lock()
        # Not os.posix_fallocate: where a file system can't do it, the C library would write to
        # every block instead.
        self._libc = ctypes.CDLL(None, use_errno=True)

    def make_room(self) -> None:
        """Get room for the whole file, unless another thread is at it or has done it.

        Raises:
            OSError: there's no room. Where the file system can't tell, writing will.
        """
        while self._with_room < self._size and self._lock.acquire(blocking=False):
            try:
                self._make_room_for_a_piece()
            finally:
                self._lock.release()

    def _make_room_for_a_piece(self) -> None:
        # By the piece, for a signal undoes what a call did.
        length = min(_PIECE, self._size - self._with_room)
        if length <= 0:
            return
        if not self._libc.fallocate(
            self._descriptor, 0, ctypes.c_long(self._with_room), ctypes.c_long(length)
        ):
            self._with_room += length
            return
        number = ctypes.get_errno()
        if number in _NO_ROOM:
            raise OSError(number, os.strerror(number))
        if number != errno.EINTR:
            self._with_room = self._size  # it can't: on without

    def write(self, buffers: Sequence[memoryview], position: int) -> None:
        """Write one buffer after another, all of them.

        Args:
            buffers: what to write, at most a thousand.
            position: where in the file the first begins, in bytes.

        Raises:
            OSError: it can't be written.
        """
        size = sum(map(len, buffers))
        with self._lock:
            done = os.pwritev(self._descriptor, buffers, position)
            if done < size:
                self._write_rest(memoryview(b"".join(buffers))[done:], position + done)
            self._written += size
            start, end = self._sent, self._written
            if end - start < _PIECE:
                return
            self._sent = end
        # Whatever comes of it: syncing the file waits for all of it, and tells of errors. Writers
        # keep about one order, so their number of bytes tells well enough where they are.
        self._libc.sync_file_range(
            self._descriptor, ctypes.c_long(start), ctypes.c_long(end - start), _START_WRITING
        )

    def _write_rest(self, rest: memoryview, position: int) -> None:
        while rest:
            count = os.pwrite(self._descriptor, rest, position)
            rest, position = rest[count:], position + count
