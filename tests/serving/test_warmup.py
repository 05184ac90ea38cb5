"""Requests that run before a version serves."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.support.onnx_models import as_model, identity_model, put_model
from tests.support.serving_core import loader

from casemate.errors import CasemateError, MalformedError
from casemate.serving.source import list_versions
from casemate.serving.warmup import MAX_RECORDS, read_records
from casemate.serving.wire import tensorflow_serving_pb2 as wire


def masked_crc(content):
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def record(content):
    length = struct.pack("<Q", len(content))
    return length + masked_crc(length) + content + masked_crc(content)


def kept(value):
    request = wire.PredictRequest(model_spec={"name": "whatever"})
    request.inputs["x"].CopyFrom(
        wire.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}]}, float_val=[value])
    )
    return record(wire.PredictionLog(predict_log={"request": request}).SerializeToString())


def test_the_check_is_crc_32c_as_others_compute_it():
    # 32 zeros and its checksum, from RFC 3720, B.4.
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == struct.pack(
        "<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    )


def test_records_are_read_in_order():
    logs = list(read_records(io.BytesIO(kept(1) + kept(2))))
    assert [each.predict_log.request.inputs["x"].float_val[0] for each in logs] == [1, 2]


def flipped(content, position):
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        kept(1)[:-1],
        kept(1)[:20],
        flipped(kept(1), 0),
        flipped(kept(1), 9),
        flipped(kept(1), 30),
        flipped(kept(1), -1 % len(kept(1))),
        record(b"\xff"),
        struct.pack("<Q", 1 << 60) + masked_crc(struct.pack("<Q", 1 << 60)),
        record(b"") * (MAX_RECORDS + 1),
    ],
)
def test_damaged_records_are_refused(content):
    with pytest.raises(MalformedError):
        list(read_records(io.BytesIO(content)))


@given(st.binary(max_size=64))
def test_anything_is_records_or_malformed(content):
    try:
        records = list(read_records(io.BytesIO(content)))
    except MalformedError:
        return
    assert b"".join(record(each.SerializeToString()) for each in records) == content


def _load(base, content, iterations=1, model=None):
    put_model(base, model or identity_model())
    (base / "1" / "assets.extra").mkdir()
    (base / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(content)
    return loader(warmup_iterations=iterations).load("m", list_versions(base)[1])


def test_a_version_is_warmed_up_before_it_serves(tmp_path):
    assert _load(tmp_path, kept(1) + kept(2)).version == 1


@pytest.mark.parametrize(
    "content",
    [flipped(kept(1), 30), record(b""), kept(1).replace(b"\n\x01x", b"\n\x01y")],
    ids=["damaged", "of no kind", "damaged name"],
)
def test_a_version_whose_warm_up_fails_does_not_load(tmp_path, content):
    with pytest.raises(CasemateError):
        _load(tmp_path, content)


def test_which_request_is_refused_is_said(tmp_path):
    other = wire.PredictionLog(predict_log={"request": {"model_spec": {"name": "m"}}})
    with pytest.raises(MalformedError, match=r"warm-up request 2: .* expected: x") as caught:
        _load(tmp_path, kept(1) + record(other.SerializeToString()))
    assert caught.value.code == "serving.warmup"


def test_a_model_that_fails_at_its_warm_up_does_not_load_and_says_so(tmp_path):
    """The engine's own errors are no errors of ours; as they come, they would end the server."""
    info = helper.make_tensor_value_info
    model = as_model(
        [helper.make_node("Reshape", ["x", "three"], ["y"])],
        [info("x", TensorProto.FLOAT, ["n"])],
        [info("y", TensorProto.FLOAT, [3])],
        [helper.make_tensor("three", TensorProto.INT64, [1], [3])],
    )
    with pytest.raises(MalformedError, match="loaded or warmed up"):
        _load(tmp_path, kept(1), model=model)


def test_without_warm_up_the_file_is_not_looked_at(tmp_path):
    assert _load(tmp_path, b"junk", iterations=0).version == 1


def test_a_warm_up_record_of_too_many_messages(monkeypatch):
    monkeypatch.setattr("casemate.serving.warmup.MAX_FIELDS", 10)
    with pytest.raises(MalformedError, match="at most 10 fields"):
        list(read_records(io.BytesIO(record(b"\x2a\x00" * 11))))
