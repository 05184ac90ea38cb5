"""Tensors from the wire: every type both ways, and everything that must be refused."""

import numpy as np
import pytest

from casemate.errors import MalformedError
from casemate.serving.dtypes import BY_NUMBER, ELEMENT_TYPES
from casemate.serving.tensors import decode_tensor, encode_tensor
from casemate.serving.wire import tensorflow_serving_pb2 as wire

LIMIT = 1 << 20


def proto(dtype, shape, **fields):
    made = wire.TensorProto(dtype=dtype, **fields)
    made.tensor_shape.SetInParent()
    for size in shape:
        made.tensor_shape.dim.add(size=size)
    return made


def decode(made, limit=LIMIT):
    return decode_tensor(made, name="x", max_bytes=limit)


@pytest.mark.parametrize(
    ("dtype", "field", "values", "expected"),
    [
        (wire.DT_FLOAT, "float_val", [1.5, -2], np.array([1.5, -2], "f4")),
        (wire.DT_DOUBLE, "double_val", [1.5, -2], np.array([1.5, -2], "f8")),
        (wire.DT_INT32, "int_val", [-(2**31), 2**31 - 1], np.array([-(2**31), 2**31 - 1], "i4")),
        (wire.DT_INT16, "int_val", [-32768, 32767], np.array([-32768, 32767], "i2")),
        (wire.DT_INT8, "int_val", [-128, 127], np.array([-128, 127], "i1")),
        (wire.DT_UINT8, "int_val", [0, 255], np.array([0, 255], "u1")),
        (wire.DT_UINT16, "int_val", [0, 65535], np.array([0, 65535], "u2")),
        (wire.DT_INT64, "int64_val", [-(2**63), 1], np.array([-(2**63), 1], "i8")),
        (wire.DT_UINT32, "uint32_val", [0, 2**32 - 1], np.array([0, 2**32 - 1], "u4")),
        (wire.DT_UINT64, "uint64_val", [0, 2**64 - 1], np.array([0, 2**64 - 1], "u8")),
        (wire.DT_BOOL, "bool_val", [True, False], np.array([True, False])),
        (wire.DT_HALF, "half_val", [0x3C00, 0xC000], np.array([1, -2], "f2")),
        (wire.DT_BFLOAT16, "half_val", [0x3F80, 0xC000], np.array([0x3F80, 0xC000], "u2")),
    ],
)
def test_each_type_is_read_from_its_list_and_from_bytes_and_written_back(
    dtype, field, values, expected
):
    listed = proto(dtype, [2], **{field: values})

    assert decode(listed).dtype == expected.dtype
    np.testing.assert_array_equal(decode(listed), expected)
    raw = proto(dtype, [2], tensor_content=expected.tobytes())
    np.testing.assert_array_equal(decode(raw), expected)
    assert encode_tensor(expected, BY_NUMBER[dtype]) == listed


def test_strings_are_read_from_both_forms_and_written_back():
    listed = proto(wire.DT_STRING, [2], string_val=["é".encode(), b""])
    raw = proto(wire.DT_STRING, [2], tensor_content=b"\x02\x00" + "é".encode())

    assert decode(listed).tolist() == decode(raw).tolist() == ["é", ""]
    assert encode_tensor(decode(listed), BY_NUMBER[wire.DT_STRING]) == listed


def test_a_short_list_repeats_its_last_value():
    made = proto(wire.DT_FLOAT, [2, 2], float_val=[1, 2])

    assert decode(made).tolist() == [[1, 2], [2, 2]]
    assert decode(proto(wire.DT_STRING, [3], string_val=[b"a"])).tolist() == ["a"] * 3


def test_an_empty_list_means_zeros():
    assert decode(proto(wire.DT_INT64, [3])).tolist() == [0, 0, 0]
    assert decode(proto(wire.DT_STRING, [2])).tolist() == ["", ""]


def test_a_scalar_has_no_dimensions():
    assert decode(proto(wire.DT_FLOAT, [], float_val=[4])).shape == ()


@pytest.mark.parametrize("shape", [[0], [3, 0], [0, 5, 2]])
def test_an_empty_tensor_stays_empty(shape):
    for element in ELEMENT_TYPES:
        array = decode(proto(element.number, shape))
        assert array.shape == tuple(shape)
        assert list(encode_tensor(array, element).tensor_shape.dim) == list(
            proto(element.number, shape).tensor_shape.dim
        )


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (proto(wire.DT_INVALID, [1]), "tensor.dtype"),
        (proto(wire.DT_COMPLEX64, [1], scomplex_val=[1, 2]), "tensor.dtype"),
        (wire.TensorProto(dtype=99), "tensor.dtype"),
        (proto(wire.DT_FLOAT, [-1], float_val=[1]), "tensor.tensor-shape"),
        (proto(wire.DT_FLOAT, [0, -1]), "tensor.tensor-shape"),
        (proto(wire.DT_FLOAT, [1] * 33), "tensor.tensor-shape"),
        (proto(wire.DT_FLOAT, [1 << 62, 1 << 62], float_val=[1]), "tensor.tensor-shape"),
        (proto(wire.DT_FLOAT, [0, 1 << 62, 1 << 62]), "tensor.tensor-shape"),
        (proto(wire.DT_FLOAT, [(LIMIT >> 2) + 1], float_val=[1]), "tensor.tensor-shape"),
        (proto(wire.DT_STRING, [1 << 20], string_val=[b""]), "tensor.tensor-shape"),
        (proto(wire.DT_FLOAT, [2], tensor_content=b"1234567"), "tensor.tensor-content"),
        (proto(wire.DT_FLOAT, [1], tensor_content=b"12345678"), "tensor.tensor-content"),
        (proto(wire.DT_BOOL, [2], tensor_content=b"\x01\x02"), "tensor.tensor-content"),
        (proto(wire.DT_FLOAT, [1], float_val=[1, 2]), "tensor.float-val"),
        (proto(wire.DT_FLOAT, [0], float_val=[1]), "tensor.float-val"),
        (proto(wire.DT_FLOAT, [1], double_val=[1]), "tensor.values"),
        (proto(wire.DT_FLOAT, [1], float_val=[1], tensor_content=b"1234"), "tensor.values"),
        (proto(wire.DT_UINT8, [1], int_val=[256]), "tensor.int-val"),
        (proto(wire.DT_UINT8, [1], int_val=[-1]), "tensor.int-val"),
        (proto(wire.DT_INT8, [1], int_val=[128]), "tensor.int-val"),
        (proto(wire.DT_HALF, [1], half_val=[65536]), "tensor.half-val"),
        (proto(wire.DT_HALF, [1], half_val=[-1]), "tensor.half-val"),
        (proto(wire.DT_STRING, [1], string_val=[b"\xff"]), "tensor.string-val"),
        (proto(wire.DT_STRING, [2], tensor_content=b"\x01"), "tensor.tensor-content"),
        (proto(wire.DT_STRING, [1], tensor_content=b"\x02a"), "tensor.tensor-content"),
        (proto(wire.DT_STRING, [1], tensor_content=b"\x01ab"), "tensor.tensor-content"),
        (proto(wire.DT_STRING, [1], tensor_content=b"\xff" * 9), "tensor.tensor-content"),
    ],
)
def test_a_tensor_that_does_not_fit_itself_is_refused(made, code):
    with pytest.raises(MalformedError) as caught:
        decode(made)
    assert caught.value.code == code


def test_an_unknown_rank_is_refused():
    made = wire.TensorProto(dtype=wire.DT_FLOAT)
    made.tensor_shape.unknown_rank = True
    with pytest.raises(MalformedError, match="without a shape"):
        decode(made)


def test_a_few_bytes_cannot_ask_for_much_memory():
    made = proto(wire.DT_FLOAT, [(64 << 20) // 4 + 1], float_val=[1])
    with pytest.raises(MalformedError, match="values left out"):
        decode(made, limit=1 << 40)


def test_the_error_says_what_was_expected_and_what_came():
    with pytest.raises(MalformedError) as caught:
        decode(proto(wire.DT_FLOAT, [1, 2], tensor_content=b"1234"))
    assert (caught.value.expected, caught.value.got) == ("8 bytes", "4 bytes")


def test_raw_bytes_are_not_copied_again():
    array = decode(proto(wire.DT_FLOAT, [4], tensor_content=bytes(16)))
    assert not array.flags.owndata
    assert not array.flags.writeable
