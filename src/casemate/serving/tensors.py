"""``TensorProto`` to array and back.

A tensor from the wire states its shape and brings its values either as raw bytes or in the list
for its type; a list shorter than the shape repeats its last value, and an empty one means zeros.
Everything is measured before memory is taken for it.

Source: TensorFlow, ``core/framework/tensor.proto`` (meaning of the fields).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from casemate.errors import MalformedError
from casemate.serving.dtypes import BY_NUMBER, Array, ElementType
from casemate.serving.wire import tensorflow_serving_pb2 as wire

MAX_DIMENSIONS: Final = 32
# A short list may stand for a large tensor, so a small message could ask for much memory.
MAX_FILLED_BYTES: Final = 64 << 20
_PLAIN_FIELDS: Final = frozenset({"dtype", "tensor_shape", "version_number"})
# Field number and wire type of the lists whose packed form is the array's own bytes.
_PACKED: Final = {"float_val": b"\x2a", "double_val": b"\x32"}
_BYTES_OF_A_STRING_OBJECT: Final = 64


def decode_tensor(
    tensor: wire.TensorProto, *, name: str, max_bytes: int, raw_strings: bool = False
) -> Array:
    """Turn a tensor from the wire into an array, without copying raw bytes.

    Args:
        tensor: what came.
        name: the input's name, for errors.
        max_bytes: limit on the array.
        raw_strings: whether strings are any bytes, not text.

    Returns:
        An array, little-endian and read-only where it is a view; strings as an object array of
        ``str``, or of ``bytes`` where they are raw; bfloat16 as the uint16 of its bits.

    Raises:
        MalformedError: ``tensor.*``.
    """
    element = BY_NUMBER.get(tensor.dtype)
    if element is None:
        raise _malformed(name, "dtype", "an element type that isn't served", got=tensor.dtype)
    shape, count = _shape(tensor.tensor_shape, name, element, max_bytes)
    # Each field is read once: reading one from the message copies it.
    fields = {field.name: value for field, value in tensor.ListFields()}
    values = fields.keys() - _PLAIN_FIELDS
    if not values <= {"tensor_content", element.field} or len(values) > 1:
        raise _malformed(
            name,
            "values",
            "values in more than one field, or in another type's",
            expected=f"tensor_content or {element.field}",
            got=", ".join(sorted(values)),
        )
    if element.number == wire.DT_STRING:
        if "tensor_content" in fields:
            strings: Sequence[object] = _split_strings(fields["tensor_content"], name, count)
        else:
            listed = fields.get(element.field, ())
            _check_count(len(listed), name, element, count)
            if listed:
                _check_repeated(len(listed[-1]) * (count - len(listed)), name, element)
            strings = list(listed)
        return as_strings(strings, name=name, count=count, raw=raw_strings).reshape(shape)
    if "tensor_content" in fields:
        content = fields["tensor_content"]
        return from_bytes(content, name=name, element=element, count=count).reshape(shape)
    return _from_list(fields.get(element.field, ()), name, element, count).reshape(shape)


def encode_tensor(
    array: Array, element: ElementType, *, as_content: bool = False
) -> wire.TensorProto:
    """Turn an array into a tensor for the wire, its values in the list for its type.

    The reference's client reads ``float_val``, so raw bytes do only where they are asked for.

    Args:
        array: of ``element``'s NumPy type; bfloat16 as the uint16 of its bits.
        element: the element type.
        as_content: raw bytes, except for strings.
    """
    if as_content and element.number != wire.DT_STRING:
        content = np.ascontiguousarray(array, element.dtype).tobytes()
        return _with_shape(wire.TensorProto(tensor_content=content), array, element)
    packed = _PACKED.get(element.field)
    if packed is not None and array.size:
        content = np.ascontiguousarray(array, element.dtype).tobytes()
        tensor = wire.TensorProto.FromString(packed + _varint(len(content)) + content)
    else:
        tensor = wire.TensorProto()
        getattr(tensor, element.field).extend(_listed(array, element))
    return _with_shape(tensor, array, element)


def _with_shape(tensor: wire.TensorProto, array: Array, element: ElementType) -> wire.TensorProto:
    tensor.dtype = element.number
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if not array.shape:
        tensor.tensor_shape.SetInParent()
    return tensor


def _listed(array: Array, element: ElementType) -> Sequence[object]:
    if element.number == wire.DT_STRING:
        return [each.encode() if isinstance(each, str) else bytes(each) for each in array.flat]
    if element.number == wire.DT_HALF:
        array = array.view(np.uint16)
    listed: list[object] = array.ravel().tolist()
    return listed


def _shape(
    proto: wire.TensorShapeProto, name: str, element: ElementType, max_bytes: int
) -> tuple[tuple[int, ...], int]:
    """The shape and number of elements: known, from 0, and within the limit."""
    if proto.unknown_rank:
        raise _malformed(name, "tensor_shape", "a tensor without a shape", expected="a known rank")
    shape = tuple(dim.size for dim in proto.dim[: MAX_DIMENSIONS + 1])
    return shape, measure(shape, name=name, element=element, max_bytes=max_bytes)


def measure(shape: tuple[int, ...], *, name: str, element: ElementType, max_bytes: int) -> int:
    """The number of elements of a tensor, before memory is taken for it.

    Raises:
        MalformedError: ``tensor.tensor-shape`` where a size is negative, or the whole too large.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise _malformed(
            name, "tensor_shape", "too many dimensions", f"at most {MAX_DIMENSIONS}", "more"
        )
    if any(size < 0 for size in shape):
        raise _malformed(name, "tensor_shape", "a negative size", "sizes from 0", list(shape))
    width = element.dtype.itemsize
    if element.number == wire.DT_STRING:
        width = _BYTES_OF_A_STRING_OBJECT
    count = 1
    # Sizes other than 0 are bounded even beside a 0: libraries multiply them in their own order.
    for size in shape:
        count *= max(size, 1)
        if count * width > max_bytes:
            raise _malformed(
                name, "tensor_shape", "the tensor is too large", f"at most {max_bytes} bytes",
                list(shape),
            )  # fmt: skip
    return 0 if 0 in shape else count


def from_bytes(
    content: bytes | memoryview, *, name: str, element: ElementType, count: int
) -> Array:
    """The array that little-endian bytes are, without copying them. Not for strings.

    Raises:
        MalformedError: ``tensor.tensor-content``.
    """
    expected = count * element.dtype.itemsize
    if len(content) != expected:
        raise _malformed(
            name,
            "tensor_content",
            "the tensor's bytes don't fit its shape and type",
            expected=f"{expected} bytes",
            got=f"{len(content)} bytes",
        )
    if element.number == wire.DT_BOOL:
        bits = np.frombuffer(content, np.uint8)
        if (bits > 1).any():
            raise _malformed(name, "tensor_content", "a bool that is neither", expected="0 or 1")
    return np.frombuffer(content, element.dtype)


def _check_count(given: int, name: str, element: ElementType, count: int) -> None:
    if given > count:
        raise _malformed(
            name, element.field, "more values than the shape holds", f"at most {count}", given
        )
    if given < count and count * element.dtype.itemsize > MAX_FILLED_BYTES:
        raise _malformed(
            name,
            element.field,
            "a large tensor with values left out",
            expected=f"{count} values",
            got=given,
        )


def _check_repeated(size: int, name: str, element: ElementType) -> None:
    """An engine has a string of its own for each element, where the array has one for all."""
    if size > MAX_FILLED_BYTES:
        raise _malformed(
            name,
            element.field,
            "a long string that stands for many",
            expected=f"at most {MAX_FILLED_BYTES} bytes of what is left out",
            got=f"{size} bytes",
        )


def _from_list(values: Sequence[object], name: str, element: ElementType, count: int) -> Array:
    _check_count(len(values), name, element, count)
    given = from_list(values, name=name, element=element, field=element.field)
    if len(given) == count:
        return given
    array = np.zeros(count, element.dtype)
    array[: len(given)] = given
    if len(given):
        array[len(given) :] = given[-1]
    return array


def from_list(values: Sequence[object], *, name: str, element: ElementType, field: str) -> Array:
    """The array of a message's list. Not for strings.

    Raises:
        MalformedError: ``tensor.*`` where the type can't hold a value.
    """
    dtype = np.dtype("<u2") if field == "half_val" else element.dtype
    try:
        # NumPy refuses Python integers that the type can't hold, but wraps those of a message's
        # list, which it reads much faster: so that is for lists of the very type alone.
        exact = dtype.itemsize >= 4 or element.number == wire.DT_BOOL
        return np.array(values if exact else list(values), dtype=dtype).view(element.dtype)
    except (OverflowError, ValueError) as error:
        raise _malformed(
            name, field, "a value that its type can't hold", expected=element.name
        ) from error


def as_strings(values: Sequence[object], *, name: str, count: int, raw: bool) -> Array:
    """An array of strings, the last one repeated up to ``count``.

    Args:
        values: bytes.
        name: the input's name, for errors.
        count: the array's size.
        raw: whether they stay bytes; else they become text, for ONNX Runtime's are UTF-8.

    Raises:
        MalformedError: ``tensor.string-val`` where one isn't UTF-8.
    """
    array = np.empty(count, object)
    try:
        given = [value if raw else value.decode() for value in values if isinstance(value, bytes)]
    except UnicodeDecodeError as error:
        raise _malformed(
            name, "string_val", "a string that isn't UTF-8", expected="UTF-8"
        ) from error
    array[: len(given)] = given
    array[len(given) :] = given[-1] if given else b"" if raw else ""
    return array


def _split_strings(content: bytes, name: str, count: int) -> list[bytes]:
    """Strings as raw bytes: every length as a varint, then every string."""
    lengths, position = [], 0
    for _ in range(count):
        length, shift = 0, 0
        while True:
            if position >= len(content) or shift > 28:
                raise _malformed(name, "tensor_content", "the lengths of the strings are cut short")
            byte = content[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if sum(lengths) != len(content) - position:
        raise _malformed(
            name,
            "tensor_content",
            "the strings don't fit their lengths",
            expected=f"{sum(lengths)} bytes",
            got=f"{len(content) - position} bytes",
        )
    strings = []
    for length in lengths:
        strings.append(content[position : position + length])
        position += length
    return strings


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _malformed(
    name: str, field: str, message: str, expected: object = None, got: object = None
) -> MalformedError:
    return MalformedError(
        f"tensor.{field.replace('_', '-')}",
        f"input '{name}': {message}",
        field=field,
        expected=None if expected is None else str(expected),
        got=None if got is None else str(got),
    )
