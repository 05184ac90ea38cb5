"""Deterministic CBOR (RFC 8949, section 4.2.1), a small set of types, nothing laxer.

What decodes encodes to the same bytes again: that one comparison refuses indefinite lengths,
integers longer than needed, duplicate and unsorted keys, and trailing bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import cbor2

from casemate.errors import MalformedError

CborValue: TypeAlias = (
    "bool | int | bytes | str | Sequence[CborValue] | Mapping[str, CborValue] | None"
)

_MAX_DEPTH = 16


def encode_cbor(value: CborValue) -> bytes:
    """Encode ``value`` deterministically: shortest forms, definite lengths, sorted keys."""
    return cbor2.dumps(value, canonical=True)


def decode_cbor(data: bytes, *, what: str, max_size: int) -> CborValue:
    """Decode deterministic CBOR.

    Args:
        data: exactly one encoded item.
        what: what it is, for messages.
        max_size: the largest length in bytes that is looked at.

    Raises:
        MalformedError: ``encoding.cbor`` where it isn't deterministic CBOR of these types,
            ``encoding.too-large`` where it is larger than ``max_size``.
    """
    if len(data) > max_size:
        raise MalformedError(
            "encoding.too-large",
            f"the {what} is too large",
            field=what,
            expected=f"at most {max_size} bytes",
            got=f"{len(data)} bytes",
        )
    _refuse_tags(data, what)
    try:
        value = cbor2.loads(
            data,
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as error:
        raise _malformed(what, str(error)) from error
    checked = _checked(value, what)
    if encode_cbor(checked) != data:
        raise _malformed(what, "an encoding that isn't deterministic, or bytes after the end")
    return checked


def decode_foreign_cbor(
    data: bytes, *, what: str, max_size: int, tags: Collection[int] = ()
) -> object:
    """Decode CBOR of other people's formats, which need not be deterministic.

    Definite lengths alone, no duplicate keys, nothing after the end, depth and size bounded. Keys
    may be integers. A tag that is allowed becomes a `cbor2.CBORTag`.

    Args:
        data: exactly one encoded item.
        what: what it is, for messages.
        max_size: the largest length in bytes that is looked at.
        tags: the tags that may stand in it.

    Raises:
        MalformedError: ``encoding.cbor``, ``encoding.too-large``.
    """
    if len(data) > max_size:
        raise MalformedError(
            "encoding.too-large",
            f"the {what} is too large",
            field=what,
            expected=f"at most {max_size} bytes",
            got=f"{len(data)} bytes",
        )
    try:
        end = _end_of_item(data, 0, frozenset(tags), _MAX_DEPTH)
        if end != len(data):
            raise ValueError("bytes after the end")
        return _thawed(
            cbor2.loads(
                data, max_depth=_MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False
            )
        )
    except (cbor2.CBORDecodeError, ValueError, TypeError, OverflowError) as error:
        raise MalformedError(
            "encoding.cbor",
            f"the {what} can't be read as CBOR",
            field=what,
            expected="one item of definite length, without duplicate keys",
            got=str(error)[:200],
        ) from error


def _thawed(value: object) -> object:
    """The library gives what stands within a tag as immutable types; the same for all is easier."""
    match value:
        case cbor2.CBORTag():
            return cbor2.CBORTag(value.tag, _thawed(value.value))
        case list() | tuple():
            return [_thawed(item) for item in value]
        case Mapping():
            return {key: _thawed(item) for key, item in value.items()}
        case _:
            return value


def _end_of_item(data: bytes, at: int, tags: frozenset[int], depth: int) -> int:
    """Where the item that begins at ``at`` ends.

    Raises:
        ValueError: it is cut short, too deep, of indefinite length, or has another tag.
    """
    if depth == 0:
        raise ValueError("too many levels")
    if at >= len(data):
        raise ValueError("the end is missing")
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if info > 27:
        raise ValueError("an indefinite length")
    if info > 23:
        size = 1 << (info - 24)
        info, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major in {2, 3}:
        at += info
    elif major in {4, 5}:
        for _ in range(info if major == 4 else 2 * info):
            at = _end_of_item(data, at, tags, depth - 1)
    elif major == 6:
        if info not in tags:
            raise ValueError(f"the tag {info}")
        at = _end_of_item(data, at, tags, depth - 1)
    if at > len(data):
        raise ValueError("the end is missing")
    return at


def _refuse_tags(data: bytes, what: str) -> None:
    """Look at every item's head before the library does.

    Tags alone make an input small and its value large (references to what was decoded before), or
    endless (references to what surrounds them), or run other parsers (dates, patterns, mail).
    """
    at = 0
    while at < len(data):
        major, info = data[at] >> 5, data[at] & 31
        at += 1
        if info > 27:
            raise _malformed(what, "an indefinite length")
        if major == 6:
            raise _malformed(what, "a tag")
        if info > 23:
            size = 1 << (info - 24)
            info, at = int.from_bytes(data[at : at + size], "big"), at + size
        if major in {2, 3}:
            at += info


def _checked(value: object, what: str) -> CborValue:
    if value is None or isinstance(value, bool | bytes | str):
        return value
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 64:
            raise _malformed(what, "an integer beyond 64 bits")
        return value
    if isinstance(value, list):
        return [_checked(item, what) for item in value]
    if isinstance(value, dict):
        checked: dict[str, CborValue] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise _malformed(what, f"a map key of type {type(key).__name__}")
            checked[key] = _checked(item, what)
        return checked
    raise _malformed(what, f"a value of type {type(value).__name__}")


def _malformed(what: str, got: str) -> MalformedError:
    return MalformedError(
        "encoding.cbor",
        f"the {what} is not deterministic CBOR",
        field=what,
        expected="RFC 8949 core deterministic encoding: maps with text keys, arrays, byte and "
        "text strings, integers of 64 bits, booleans, null",
        got=got,
    )
