"""Headers of model files: what is whole passes, everything else is malformed."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.models import gguf, message, onnx_with_data, safetensors

from casemate.errors import MalformedError
from casemate.image.model import gguf as gguf_format
from casemate.image.model import safetensors as safetensors_format
from casemate.image.model.onnx_graph import ExternalData, external_data


def check_safetensors(data):
    size = safetensors_format.header_size(data[:8], len(data))
    return safetensors_format.check_header(data[8 : 8 + size], len(data) - 8 - size)


def check_gguf(data):
    return gguf_format.check_header(memoryview(data), len(data))


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({}, 0), ({"a": tensor()}, 8), ({"__metadata__": {"format": "pt"}, "a": tensor()}, 8),
        ({"b": tensor(offsets=(8, 16)), "a": tensor()}, 16),
        ({"a": tensor("F4", (3, 2), (0, 3))}, 3), ({"a": tensor(shape=(), offsets=(0, 4))}, 4),
        ({"a": tensor(shape=(0, 5), offsets=(0, 0)), "b": tensor()}, 8),
    ],
)  # fmt: skip
def test_whole_safetensors(header, size):
    count = len([name for name in header if name != "__metadata__"])
    assert check_safetensors(safetensors(header, bytes(size))) == count


@pytest.mark.parametrize("data", [b"", bytes(8), struct.pack("<Q", 1) + b"{"])
def test_a_file_that_is_too_short_for_any_header_is_said_to_be(data):
    with pytest.raises(MalformedError) as caught:
        check_safetensors(data)
    assert (caught.value.field, caught.value.got) == ("size", str(len(data)))
    assert caught.value.expected == "10 bytes or more"


@pytest.mark.parametrize(
    "data",
    [
        b"", bytes(8), struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 3) + b"{}",
        safetensors(raw=b"[]"), safetensors(raw=b" {}", data=b""), safetensors(raw=b"{" * 9),
        safetensors(raw=b'{"a":1,"a":1}'), safetensors({"a": 5}), safetensors({"a": {}}),
        safetensors({"__metadata__": {"a": 1}}, b""), safetensors({"__metadata__": []}, b""),
        safetensors({"a": tensor()}, bytes(9)), safetensors({"a": tensor()}, bytes(7)),
        safetensors({"a": tensor(shape=(3,))}), safetensors({"a": tensor("X")}),
        safetensors({"a": tensor(shape=(-1, -2))}), safetensors({"a": tensor(shape=(True, 2))}),
        safetensors({"a": tensor(shape=(2.0,))}), safetensors({"a": tensor(offsets=(8, 0))}),
        safetensors({"a": tensor(offsets=(0,))}), safetensors({"a": tensor(more=1)}),
        safetensors({"a": tensor(offsets=(1, 9))}, bytes(9)),
        safetensors({"a": tensor(), "b": tensor()}),
        safetensors({"a": tensor(), "b": tensor(offsets=(12, 20))}, bytes(20)),
        safetensors({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
        safetensors({"a": tensor("F4", (3,), (0, 1))}, bytes(1)),
        safetensors({"a": tensor(shape=(1,) * 65, offsets=(0, 4))}, bytes(4)),
    ],
)  # fmt: skip
def test_safetensors_that_are_not(data):
    with pytest.raises(MalformedError):
        check_safetensors(data)


ARRAY = struct.pack("<IQ", 8, 2) + (struct.pack("<Q", 1) + b"x") * 2
BYTES = struct.pack("<IQ", 0, 3) + b"abc"
DEEP = struct.pack("<IQ", 9, 1) * 5 + struct.pack("<IQ", 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        gguf(), gguf(version=2), gguf(tensors=(), data=b""), gguf(metadata=()),
        gguf(metadata=[("a", 9, ARRAY), ("b", 6, bytes(4)), ("c", 9, BYTES)]),
        gguf(metadata=[("general.alignment", 4, struct.pack("<I", 16))],
             tensors=[("a", [4], 0, 0), ("b", [4], 0, 16)]),
    ],
)  # fmt: skip
def test_whole_gguf(data):
    check_gguf(data)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"GGUF", b"GGML" + gguf()[4:], gguf(version=1), gguf(version=3 << 24),
        gguf(counts=(1 << 40, 0)), gguf(counts=(0, 1 << 40)), gguf(counts=(3, 1)),
        gguf(metadata=[("a", 13, b"")]), gguf(metadata=[("a", 8, struct.pack("<Q", 1 << 60))]),
        gguf(metadata=[("a", 9, DEEP)]), gguf(metadata=[("a", 9, struct.pack("<IQ", 8, 1 << 50))]),
        gguf(metadata=[("a", 9, struct.pack("<IQ", 12, 1 << 62))]),
        gguf(metadata=[("a", 0, b"x")] * 2), gguf(metadata=[("k" * 65536, 0, b"x")]),
        gguf(metadata=[("general.alignment", 4, struct.pack("<I", 3))]),
        gguf(metadata=[("general.alignment", 4, bytes(4))]),
        gguf(metadata=[("general.alignment", 0, b"\x08")]),
        gguf(tensors=[("a", [4], 0, 8)]), gguf(tensors=[("a", [4], 0, 64)]),
        gguf(tensors=[("a", [4], 0, 0)] * 2), gguf(tensors=[("a", [1] * 9, 0, 0)]), gguf()[:60],
    ],
)  # fmt: skip
def test_gguf_that_are_not(data):
    with pytest.raises(MalformedError):
        check_gguf(data)


@pytest.mark.parametrize(
    "within", [(5,), (1, 5, 5), (1, 5, 6, 5), (1, 5, 10), (1, 5, 11, 5), (15, 1), (1, 5, 22, 2)]
)
def test_data_elsewhere_is_found_wherever_a_tensor_may_be(within):
    model = onnx_with_data(within, location="a.bin", offset="5", length="7")
    assert external_data(memoryview(model)) == (ExternalData(location="a.bin", offset=5, length=7),)


def test_a_real_model_with_data_elsewhere(tmp_path):
    onnx = pytest.importorskip("onnx")
    import numpy

    weights = onnx.numpy_helper.from_array(numpy.ones((64, 64), numpy.float32), "w")
    value = onnx.helper.make_tensor_value_info("x", 1, [64, 64])
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    out = onnx.helper.make_tensor_value_info("y", 1, [64, 64])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [out], [weights]))
    onnx.save(
        model, tmp_path / "a.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    (found,) = external_data(memoryview((tmp_path / "a.onnx").read_bytes()))
    assert (found.location, found.offset, found.length) == ("w.bin", 0, 64 * 64 * 4)
    assert external_data(memoryview(b"")) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff", b"\x3a\x05", b"\x03", b"\x00\x00", b"\x80" * 11, b"\xff" * 9 + b"\x7f",
        onnx_with_data(location="a", offset="-1"), onnx_with_data(location="a", offset="1" * 20),
        onnx_with_data(location="x" * 5000), onnx_with_data((1, 5, 6) * 30 + (5,), location="a"),
        message(7, message(5, message(13, message(1, b"\xff")))),
    ],
)  # fmt: skip
def test_graphs_that_are_not(data):
    with pytest.raises(MalformedError):
        external_data(memoryview(data))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_malformed(data):
    for check in (
        check_safetensors,
        lambda d: check_safetensors(safetensors(raw=d, data=b"")),
        check_gguf,
        lambda d: check_gguf(b"GGUF\3\0\0\0" + d),
        lambda d: external_data(memoryview(d)),
    ):
        with contextlib.suppress(MalformedError):
            check(data)
