"""The kernel's offer, and what is taken of it. Mounts try the rest (`test_fuse`)."""

from __future__ import annotations

import errno
import struct

import pytest

from casemate.image.fuse_wire import FuseError, init_reply

_EXTENDED, _ASYNC_READ, _UNKNOWN = 1 << 30, 1 << 0, 1 << 5
_TIMEOUT = 1 << 10  # bit 42 in all


def answered(offer: bytes) -> tuple[int, int, int]:
    """Flags, further flags, and the timeout in seconds."""
    reply = init_reply(memoryview(offer), patience=77)
    assert len(reply) == 64
    return (
        struct.unpack_from("=I", reply, 12)[0],
        *struct.unpack_from("=I4xH", reply, 32),
    )


def test_a_kernel_that_can_end_late_requests_is_asked_to() -> None:
    offer = struct.pack("=IIIII44x", 7, 45, 131072, _EXTENDED | _ASYNC_READ | _UNKNOWN, 0xFFFF)
    assert answered(offer) == (_EXTENDED | _ASYNC_READ, _TIMEOUT, 77)


def test_an_older_kernel_gets_what_it_offers() -> None:
    assert answered(struct.pack("=IIII", 7, 31, 131072, _ASYNC_READ))[:2] == (_ASYNC_READ, 0)


@pytest.mark.parametrize("version", [(7, 30), (6, 99), (8, 0)])
def test_a_kernel_that_is_too_old_or_another_is_refused(version: tuple[int, int]) -> None:
    with pytest.raises(FuseError) as caught:
        init_reply(memoryview(struct.pack("=IIII", *version, 131072, 0)), patience=77)
    assert caught.value.number == errno.EPROTO
