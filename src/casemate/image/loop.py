"""Make a block device of a file. Source: loop(4), Linux, include/uapi/linux/loop.h."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_CONTROL = "/dev/loop-control"
_GET_FREE, _CONFIGURE, _GET_STATUS, _BLOCK_READ_AHEAD = 0x4C82, 0x4C0A, 0x4C05, 0x1262
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
_CONFIG = struct.Struct("=II52xI176x64x")
_STATUS = struct.Struct("=52xI176x")
_SECTOR = 512
_ATTEMPTS = 16


class LoopDevice:
    """A read-only block device whose content is an open file's, without a copy in between.

    It lasts until this is closed and nothing uses it, a mount of it included.

    Args:
        file: descriptor of the file; it can be closed afterwards.
        block: bytes of the device's blocks; what is read is a multiple of them.
        read_ahead: bytes that the kernel reads ahead.

    Raises:
        OSError: no loop devices here, none free, or none without a second copy in memory.
    """

    def __init__(self, file: int, *, block: int, read_ahead: int) -> None:
        self.path, self._descriptor = _configured(file, block)
        try:
            # A copy of what is decrypted would double the memory, and mustn't be the default of
            # a kernel that can't do without.
            status = bytearray(_STATUS.size)
            fcntl.ioctl(self._descriptor, _GET_STATUS, status)
            if not _STATUS.unpack(status)[0] & _DIRECT_IO:
                raise OSError(errno.EOPNOTSUPP, "the loop device can't read past the page cache")
            fcntl.ioctl(self._descriptor, _BLOCK_READ_AHEAD, read_ahead // _SECTOR)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give it up; the kernel takes it away once nothing uses it."""
        os.close(self._descriptor)


def _configured(file: int, block: int) -> tuple[str, int]:
    config = _CONFIG.pack(file, block, _READ_ONLY | _AUTOCLEAR | _DIRECT_IO)
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        for attempt in range(_ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, _GET_FREE)}"
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.ioctl(descriptor, _CONFIGURE, config)
            except OSError as error:
                os.close(descriptor)
                if error.errno != errno.EBUSY or attempt == _ATTEMPTS - 1:
                    raise  # busy: somebody else was faster
            else:
                return path, descriptor
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device is free")
