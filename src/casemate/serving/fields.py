"""Count what a message is made of before it is parsed.

A submessage without content takes two bytes on the wire and up to 150 in memory, so a message of
tens of megabytes may stand for gigabytes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from casemate.errors import MalformedError
from casemate.serving.status import wrong

MAX_FIELDS: Final = 4 << 20
_MIN_FIELD_BYTES: Final = 2
_MAX_DEPTH: Final = 100  # protobuf's own
_MAX_VARINT: Final = 10
_MORE: Final = 0x80
_VARINT, _FIXED64, _DELIMITED, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_NONE: Final[Mapping[int, Descriptor]] = MappingProxyType({})


def check_fields(content: bytes, message: type[Message], most: int) -> None:
    """Refuse a message that has more fields than ``most``, those of its submessages included.

    What can't have so many by its size isn't looked at: that is nearly every message.

    Args:
        content: the message on the wire.
        message: what it is to be parsed as.
        most: how many fields are allowed.

    Raises:
        MalformedError: ``serving.request``.
    """
    if len(content) > most * _MIN_FIELD_BYTES:
        count_fields(content, message, most)


def count_fields(content: bytes, message: type[Message], most: int) -> int:
    """How many fields a message has, those of its submessages included.

    Raises:
        MalformedError: ``serving.request`` for more than ``most``, and for what isn't a message.

    Source: the Protocol Buffers documentation, Encoding.
    Does not check: what parsing does besides, as names in UTF-8.
    """
    count, at, end = 0, 0, len(content)
    below = _below(cast("Descriptor", message.DESCRIPTOR))
    around: list[tuple[int, Mapping[int, Descriptor]]] = []
    try:
        while True:
            while at >= end:
                if at > end:
                    raise _malformed(message)
                if not around:
                    return count
                end, below = around.pop()
            count += 1
            if count > most or len(around) > _MAX_DEPTH:
                limit = f"at most {most} fields in all, {_MAX_DEPTH} deep"
                raise wrong("message", limit, "more")
            tag, at = content[at], at + 1
            if tag & _MORE:
                tag, at = _varint(content, at, tag)
            kind = tag & 7
            if kind == _DELIMITED:
                size, at = content[at], at + 1
                if size & _MORE:
                    size, at = _varint(content, at, size)
                child = below.get(tag >> 3)
                if child is None:
                    at += size
                else:
                    if at + size > end:
                        raise _malformed(message)
                    around.append((end, below))
                    end, below = at + size, _below(child)
            elif kind == _VARINT:
                while content[at] & _MORE:
                    at += 1
                at += 1
            elif kind == _FIXED32:
                at += 4
            elif kind == _FIXED64:
                at += 8
            elif kind == _START_GROUP:  # none of ours: whatever it holds is skipped
                around.append((end, below))
                below = _NONE
            elif kind == _END_GROUP and around and around[-1][0] == end:
                end, below = around.pop()
            else:
                raise _malformed(message)
    except IndexError:  # it ends in the middle of a field
        raise _malformed(message) from None


def _varint(content: bytes, at: int, first: int) -> tuple[int, int]:
    """The number that begins with ``first``, and where it ends."""
    value = first & 0x7F
    for index in range(1, _MAX_VARINT):
        byte, at = content[at], at + 1
        value |= (byte & 0x7F) << 7 * index
        if not byte & _MORE:
            return value, at
    raise IndexError("a number that doesn't end")


def _malformed(message: type[Message]) -> MalformedError:
    return wrong("message", f"a {message.__name__}", "other bytes")


@functools.cache
def _below(message: Descriptor) -> Mapping[int, Descriptor]:
    """The fields of a message that are messages."""
    return {
        field.number: field.message_type
        for field in message.fields
        if field.message_type is not None
    }
