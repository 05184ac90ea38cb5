"""Our messages are TensorFlow Serving's on the wire: bytes written by hand from its field numbers.

Each expectation is built from the numbers in TensorFlow's and TensorFlow Serving's published
definitions, not from our own, so a wrong number in ours shows.
"""

import struct
import subprocess
import sys
from pathlib import Path

import pytest

from casemate.client.wire import tensorflow_serving_pb2 as client_wire
from casemate.serving.wire import tensorflow_serving_pb2 as wire

ROOT = Path(__file__).resolve().parents[2]


def varint(number):
    encoded = b""
    while number > 0x7F:
        encoded += bytes([number & 0x7F | 0x80])
        number >>= 7
    return encoded + bytes([number])


def number(field, value):
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def block(field, content):
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


SHAPE = block(2, number(1, 1) + block(2, "rows")) + block(2, number(1, -1))
MODEL_SPEC = block(1, "resnet") + block(2, number(1, 7)) + block(3, "serving_default")


def spec(module):
    made = module.ModelSpec(name="resnet", signature_name="serving_default")
    made.version.value = 7
    return made


def floats(*values):
    return b"".join(struct.pack("<f", value) for value in values)


@pytest.mark.parametrize("module", [wire, client_wire], ids=["server", "client"])
def test_a_predict_request_is_tensorflow_servings(module):
    request = module.PredictRequest(model_spec=spec(module), output_filter=["activation_49"])
    tensor = request.inputs["input_1"]
    tensor.dtype = module.DT_FLOAT
    tensor.tensor_shape.dim.add(size=2)
    tensor.tensor_content = floats(1.5, -2)

    content = number(1, 1) + block(2, block(2, number(1, 2))) + block(4, floats(1.5, -2))
    expected = (
        block(1, MODEL_SPEC)
        + block(2, block(1, "input_1") + block(2, content))
        + block(3, "activation_49")
    )
    assert request.SerializeToString(deterministic=True) == expected


def test_a_version_label_is_field_4_beside_the_version():
    made = wire.ModelSpec(version_label="stable")

    assert made.SerializeToString() == block(4, "stable")
    made.version.value = 1
    assert not made.HasField("version_label")


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("float_val", [1.5, 2], block(5, floats(1.5, 2))),
        ("double_val", [1.5], block(6, struct.pack("<d", 1.5))),
        ("int_val", [1, 300], block(7, varint(1) + varint(300))),
        ("string_val", [b"a", b""], block(8, "a") + block(8, "")),
        ("scomplex_val", [1, 2], block(9, floats(1, 2))),
        ("int64_val", [1 << 40], block(10, varint(1 << 40))),
        ("bool_val", [True, False], block(11, b"\1\0")),
        ("dcomplex_val", [1, 2], block(12, struct.pack("<dd", 1, 2))),
        ("half_val", [0x3C00], block(13, varint(0x3C00))),
        ("uint32_val", [1 << 31], block(16, varint(1 << 31))),
        ("uint64_val", [1 << 63], block(17, varint(1 << 63))),
        ("version_number", 3, number(3, 3)),
        ("tensor_content", b"abc", block(4, "abc")),
    ],
)
def test_a_tensors_fields_are_tensorflows(name, values, expected):
    assert wire.TensorProto(**{name: values}).SerializeToString() == expected


def test_a_shape_is_tensorflows():
    shape = wire.TensorShapeProto()
    shape.dim.add(size=1, name="rows")
    shape.dim.add(size=-1)

    assert shape.SerializeToString() == SHAPE
    assert wire.TensorShapeProto(unknown_rank=True).SerializeToString() == number(3, 1)


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "DT_FLOAT": 1, "DT_DOUBLE": 2, "DT_INT32": 3, "DT_UINT8": 4, "DT_INT16": 5, "DT_INT8": 6,
        "DT_STRING": 7, "DT_COMPLEX64": 8, "DT_INT64": 9, "DT_BOOL": 10, "DT_BFLOAT16": 14,
        "DT_UINT16": 17, "DT_COMPLEX128": 18, "DT_HALF": 19, "DT_UINT32": 22, "DT_UINT64": 23,
    }.items(),
)  # fmt: skip
def test_element_types_have_tensorflows_numbers(name, value):
    assert wire.DataType.Value(name) == value


def test_a_predict_response_is_tensorflow_servings():
    response = wire.PredictResponse(model_spec=spec(wire))
    response.outputs["activation_49"].float_val.append(0.5)

    tensor = block(5, floats(0.5))
    assert response.SerializeToString(deterministic=True) == (
        block(1, block(1, "activation_49") + block(2, tensor)) + block(2, MODEL_SPEC)
    )


def test_metadata_is_tensorflow_servings():
    signatures = wire.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    info = signature.inputs["x"]
    info.name, info.dtype = "x:0", wire.DT_FLOAT
    info.tensor_shape.dim.add(size=-1)
    signature.outputs["y"].name = "y:0"

    x = block(1, "x:0") + number(2, 1) + block(3, block(2, number(1, -1)))
    body = (
        block(1, block(1, "x") + block(2, x))
        + block(2, block(1, "y") + block(2, block(1, "y:0")))
        + block(3, "tensorflow/serving/predict")
    )
    expected = block(1, block(1, "serving_default") + block(2, body))
    assert signatures.SerializeToString(deterministic=True) == expected
    request = wire.GetModelMetadataRequest(model_spec=spec(wire), metadata_field=["signature_def"])
    assert request.SerializeToString() == block(1, MODEL_SPEC) + block(2, "signature_def")
    response = wire.GetModelMetadataResponse(model_spec=spec(wire))
    response.metadata["signature_def"].type_url = "t"
    packed = block(1, "signature_def") + block(2, block(1, "t"))
    assert response.SerializeToString() == block(1, MODEL_SPEC) + block(2, packed)


def test_status_is_tensorflow_servings():
    response = wire.GetModelStatusResponse()
    one = response.model_version_status.add(version=7, state=wire.ModelVersionStatus.AVAILABLE)
    one.status.error_code = 5
    one.status.error_message = "gone"

    status = number(1, 5) + block(2, "gone")
    assert response.SerializeToString() == block(1, number(1, 7) + number(2, 30) + block(3, status))
    states = dict(wire.ModelVersionStatus.State.items())
    assert states == {
        "UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50,
    }  # fmt: skip
    request = wire.GetModelStatusRequest(model_spec=spec(wire))
    assert request.SerializeToString() == block(1, MODEL_SPEC)


def test_an_ssl_config_is_tensorflow_servings():
    config = wire.SSLConfig(server_key="k", server_cert="c", custom_ca="a", client_verify=True)

    assert config.SerializeToString() == (
        block(1, "k") + block(2, "c") + block(3, "a") + number(4, 1)
    )


def test_what_is_committed_is_what_the_definitions_compile_to():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "compile-protos", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"run make proto: {done.stdout}{done.stderr}"
