"""JSON values to arrays and back.

Numbers come as nested lists. ``{"b64": "…"}`` stands for bytes. What JSON has no number for (NaN,
infinities) is written and read as TensorFlow Serving does: as bare words.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import gc
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import numpy as np
import orjson

from casemate.errors import MalformedError
from casemate.serving.dtypes import Array, ElementType
from casemate.serving.examples import strings
from casemate.serving.signature import Port
from casemate.serving.status import shown, wrong
from casemate.serving.tensors import measure
from casemate.serving.wire import tensorflow_serving_pb2 as wire

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
# What may be written: arrays in the places of lists.
Writable: TypeAlias = (
    "bool | int | float | str | Array | Sequence[Writable] | Mapping[str, Writable] | None"
)

B64: Final = "b64"
_FLOATS: Final = (wire.DT_FLOAT, wire.DT_DOUBLE, wire.DT_HALF)
_WORDS: Final = (b"NaN", b"Infinity")
_OPTIONS: Final = orjson.OPT_SERIALIZE_NUMPY
# Of a limit of n bytes of JSON, n / 16 may be lists: an empty one takes 64 bytes and is written in
# three. An object takes as much as four.
_JSON_A_LIST: Final = 16
_LISTS_IN_AN_OBJECT: Final = 4
_MIN_LISTS: Final = 1024
_MAX_QUOTES: Final = 4096
_PIECE_BYTES: Final = 64 << 10


class Document(dict[str, Json]):
    """The object that a request's body is.

    Args:
        value: the object.
        swells: whether a string in it, put among its numbers, would make an array of them large.
            NumPy gives each element of an array with strings the room of the longest.
    """

    def __init__(self, value: Mapping[str, Json], *, swells: bool) -> None:
        super().__init__(value)
        self._swells = swells

    def array(self, value: Json, port: Port, *, name: str, max_bytes: int) -> Array:
        """The array of an input whose shape its nesting says.

        Args:
            value: what is in the document.
            port: the input.
            name: the input's name, for errors.
            max_bytes: limit on the array.

        Raises:
            MalformedError: where it doesn't fit the input.
        """
        spec = port.spec
        if spec.element.number == wire.DT_STRING:
            array = _strings(value, port, name, max_bytes)
        else:
            shape = _outer_shape(value)
            measure(shape, name=name, element=spec.element, max_bytes=max_bytes)
            array = self.numbers(value, spec.element, name)
        if not spec.fits(array.shape):
            raise wrong(f"inputs['{name}']", str(spec), f"shape {list(array.shape)}")
        return array

    def numbers(self, value: Json, element: ElementType, name: str) -> Array:
        """Nested lists of numbers, or of true and false, as an array of their own shape.

        Args:
            value: what is in the document.
            element: the type wanted.
            name: the input's name, for errors.

        Raises:
            MalformedError: ``serving.request``.
        """
        if self._swells and _has_strings(value):  # looked for before an array is made
            raise wrong(name, f"even lists of {element.name}", "something else")
        return _numbers(value, element, name)


def parse(body: bytes, *, max_bytes: int) -> Document:
    """Read the JSON object that a request's body is.

    Raises:
        MalformedError: ``serving.json``.
    """
    if len(body) > max_bytes:
        raise MalformedError(
            "serving.json",
            "the JSON is too large",
            expected=f"at most {max_bytes} bytes",
            got=f"{len(body)} bytes",
            remedy="Send tensors over gRPC, or as binary data.",
        )
    # Lists and objects are many times as large as the two bytes that they may be written in.
    most = max(max_bytes // _JSON_A_LIST, _MIN_LISTS)
    weight = 0
    if len(body) > most // 2:  # fewer bytes can't be so many
        weight = body.count(b"[") + body.count(b"{") * _LISTS_IN_AN_OBJECT
    if weight > most:
        raise MalformedError(
            "serving.json",
            "the JSON has too many lists and objects",
            expected=f"at most {most} lists, or a quarter as many objects",
            remedy="Send tensors over gRPC, or as binary data.",
        )
    try:
        value = _loads(body)
    except orjson.JSONDecodeError as error:
        value = _with_words(body, error)
    if not isinstance(value, dict):
        raise MalformedError("serving.json", "the body isn't a JSON object")
    return Document(value, swells=_swells(body, max_bytes))


def _swells(body: bytes, most: int) -> bool:
    """Whether its longest string, as often as it has values, takes more than that; or it may."""
    parts = body.split(b'"', _MAX_QUOTES)
    if len(parts) > _MAX_QUOTES or b"\\" in body:
        return True
    longest = max(map(len, parts[1::2]), default=0)
    # A value takes two bytes with its comma; to count commas takes longer than all else here.
    return longest * 4 * (len(body) // 2 + 1) > most


def _loads(body: bytes) -> Json:
    # Python's collector would look for cycles among the lists of numbers, again and again while
    # they are made: half of the time. Nothing else runs meanwhile: orjson holds Python's lock.
    gc.disable()
    try:
        value: Json = orjson.loads(body)
    finally:
        gc.enable()
    return value


def _with_words(body: bytes, error: orjson.JSONDecodeError) -> Json:
    """JSON with NaN or infinities, which orjson doesn't take."""
    if any(word in body for word in _WORDS):
        try:
            value: Json = json.loads(body)
            if b"\\u" in body:  # an escape may name half a character, which no text can hold
                json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            pass
        else:
            return value
    raise MalformedError(
        "serving.json", "JSON parse error", got=f"at offset {error.pos}: {error.msg}"
    ) from error


def _numbers(value: Json, element: ElementType, name: str) -> Array:
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as error:  # lists of different lengths
        raise wrong(name, f"even lists of {element.name}", "uneven ones") from error
    if array.size == 0 and array.dtype.kind == "f":
        return array.astype(element.dtype)
    if element.number == wire.DT_BOOL:
        allowed = "b"
    elif element.number in (*_FLOATS, wire.DT_BFLOAT16):
        allowed = "iuf"
    else:
        allowed = "iu"
    if element.number == wire.DT_UINT64 and array.dtype.kind == "f":
        # Beside a number beyond 63 bits NumPy takes whole numbers for floats, and rounds.
        exact = np.array(value, object)
        if all(type(each) is int and 0 <= each < 1 << 64 for each in exact.flat):
            array = exact.astype("<u8")
    if array.dtype.kind not in allowed:
        raise wrong(name, f"even lists of {element.name}", _kind(array))
    if element.number == wire.DT_BFLOAT16:
        return _to_bfloat16(array.astype("<f4"))
    with np.errstate(over="ignore"):
        made: Array = array.astype(element.dtype)
    if array.dtype.kind in "iu" and element.number not in _FLOATS and not (made == array).all():
        raise wrong(name, f"numbers that {element.name} can hold", "others")
    return made


def _has_strings(value: Json) -> bool:
    """Whether there is a string among nested lists, which need be even only up to it."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            return True
        if isinstance(each, list):
            kinds = set(map(type, each))
            if str in kinds:
                return True
            if list in kinds:
                waiting.extend(each)
    return False


def _strings(value: Json, port: Port, name: str, max_bytes: int) -> Array:
    shape = _outer_shape(value)
    count = measure(shape, name=name, element=port.spec.element, max_bytes=max_bytes)
    leaves: list[str | bytes] = []
    _collect(value, shape, leaves, name)
    if len(leaves) != count:
        raise wrong(name, f"{count} strings", str(len(leaves)))
    return strings(leaves, name, raw=port.raw_strings).reshape(shape)


def _collect(value: Json, shape: tuple[int, ...], leaves: list[str | bytes], name: str) -> None:
    if not shape:
        leaves.append(decode_string(value, name))
        return
    if not isinstance(value, list) or len(value) != shape[0]:
        raise wrong(name, "even lists of strings", "uneven ones")
    for each in value:
        _collect(each, shape[1:], leaves, name)


def decode_string(value: Json, name: str) -> str | bytes:
    """A string, or the bytes that ``{"b64": …}`` stands for.

    Raises:
        MalformedError: ``serving.request``.
    """
    if isinstance(value, str):
        return value
    if is_bytes(value):
        assert isinstance(value, dict)
        text = str(value[B64])
        with contextlib.suppress(binascii.Error, ValueError):
            return base64.b64decode(text, validate=True)
        # As TensorFlow Serving takes it: in lines, and without its padding.
        text = "".join(text.split())
        padding = "" if text.endswith("=") else "=" * (-len(text) % 4)
        try:
            return base64.b64decode(text + padding, validate=True)
        except (binascii.Error, ValueError) as error:
            raise wrong(name, "base64", "other text") from error
    raise wrong(name, 'a string or {"b64": "…"}', type(value).__name__)


def is_bytes(value: Json) -> bool:
    """Whether a value is ``{"b64": …}``."""
    return isinstance(value, dict) and value.keys() == {B64} and isinstance(value[B64], str)


def _outer_shape(value: Json) -> tuple[int, ...]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _kind(array: Array) -> str:
    kinds = {"b": "true and false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}
    return kinds.get(array.dtype.kind, "something else")


def writable(array: Array, element: ElementType, *, as_bytes: bool = False) -> Writable:
    """What stands for an array in an answer."""
    if element.number == wire.DT_STRING:
        listed: Json = _written_strings(array.tolist(), as_bytes=as_bytes)
        return listed
    if element.number == wire.DT_BFLOAT16:
        return (array.astype("<u4") << 16).view("<f4").reshape(array.shape)
    if not array.ndim:  # neither does orjson know it, nor ascontiguousarray leave it be
        scalar: Writable = array[()]
        return scalar
    return np.ascontiguousarray(array)


def _written_strings(value: object, *, as_bytes: bool) -> Json:
    if isinstance(value, list):
        return [_written_strings(each, as_bytes=as_bytes) for each in value]
    if isinstance(value, bytes) and not as_bytes:
        with contextlib.suppress(UnicodeDecodeError):
            return value.decode()
    if as_bytes or isinstance(value, bytes):
        content = value if isinstance(value, bytes) else str(value).encode()
        return {B64: base64.b64encode(content).decode()}
    return str(value)


def write(value: Mapping[str, Writable]) -> bytes:
    """The JSON of an answer."""
    return _written(value)


def _written(value: Writable) -> bytes:
    if _finite(value):
        return orjson.dumps(value, option=_OPTIONS)
    if isinstance(value, np.ndarray | np.generic):
        return _with_words_for(np.asarray(value))
    if isinstance(value, Mapping):
        fields = (b"%s:%s" % (orjson.dumps(key), _written(each)) for key, each in value.items())
        return b"{%s}" % b",".join(fields)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return b"[%s]" % b",".join(map(_written, value))
    return json.dumps(value).encode()


def _with_words_for(array: Array) -> bytes:
    """An array with words for what isn't a number, where orjson writes ``null``.

    Piece by piece: words as objects take a hundred bytes each.
    """
    strange = array[~np.isfinite(array)]
    words = np.where(np.isnan(strange), b"NaN", np.where(strange > 0, b"Infinity", b"-Infinity"))
    text = orjson.dumps(np.ascontiguousarray(array).reshape(array.shape or 1), option=_OPTIONS)
    made, position, used = bytearray(), 0, 0
    while position < len(text):
        comma = text.find(b",", position + _PIECE_BYTES)
        end = comma if comma >= 0 else len(text)
        parts = text[position:end].split(b"null")
        here = words[used : used + len(parts) - 1].tolist()
        made += b"".join(itertools.chain.from_iterable(zip(parts, (*here, b""), strict=True)))
        position, used = end, used + len(here)
    return bytes(made) if array.ndim else bytes(made[1:-1])


def _finite(value: object) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind != "f" or bool(np.isfinite(value).all())
    if isinstance(value, Mapping):
        return all(_finite(each) for each in value.values())
    if isinstance(value, list):
        return all(_finite(each) for each in value)
    return not isinstance(value, float) or math.isfinite(value)


def _to_bfloat16(array: Array) -> Array:
    """Rounded to nearest, ties to even."""
    bits = array.view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    made: Array = (np.where(np.isnan(array), bits | 0x400000, rounded) >> 16).astype("<u2")
    return made


def key_error(field: str, keys: Mapping[str, object], expected: str) -> MalformedError:
    """The error for an object whose keys aren't those expected."""
    return wrong(field, expected, ", ".join(shown(key) for key in sorted(keys)[:8]) or "none")
