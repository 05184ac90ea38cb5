"""The Open Inference Protocol over REST and gRPC: the same core behind both."""

import json
import struct
import time

import numpy as np
import pytest
from onnx import TensorProto
from tests.support.onnx_models import identity_model
from tests.support.serving_core import served_core

from casemate.errors import CasemateError, MalformedError
from casemate.serving.dtypes import BFLOAT16_IN_ONNX, ELEMENT_TYPES
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.rest.http import Request
from casemate.serving.rest.open_inference import OpenInferenceRest
from casemate.serving.status import Code, status_of
from casemate.serving.wire import open_inference_pb2 as wire

INFER = "/v2/models/m/infer"


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    return served_core(tmp_path_factory.mktemp("m"), identity_model(shape=["n", 2]))


def send(core, path, body=None, headers=()):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    request = Request(method=method, path=path, headers=dict(headers), body=content)
    served = OpenInferenceRest(core, max_json_bytes=1 << 16)
    *_, response = served.answer(request, time.monotonic() + 60)
    return response


def ask(core, path, body=None, headers=()):
    return json.loads(send(core, path, body, headers).body)


def given(**changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
    return tensor | changes


def test_the_server_and_its_models_describe_themselves(core):
    assert ask(core, "/v2/health/live") == {"live": True}
    assert ask(core, "/v2/health/ready") == {"ready": True}
    about = ask(core, "/v2")
    assert (about["name"], about["extensions"]) == ("casemate", ["binary_tensor_data"])
    described = {
        "name": "m",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "x_out", "datatype": "FP32", "shape": [-1, 2]}],
    }
    for path in ("/v2/models/m", "/v2/models/m/versions/1"):
        assert ask(core, path) == described
        assert send(core, path + "/ready").status == 200
    assert send(core, "/v2/models/m/versions/2/ready").status == 503


@pytest.mark.parametrize("data", [[1, 2], [[1, 2]]], ids=["flat", "nested"])
def test_tensors_come_as_json(core, data):
    assert ask(core, INFER, {"id": "7", "inputs": [given(data=data)]}) == {
        "model_name": "m",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "x_out", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}],
    }


def test_strings_may_come_in_any_depth_of_lists(tmp_path):
    served = served_core(tmp_path, identity_model(TensorProto.STRING))
    tensor = {"name": "x", "datatype": "BYTES", "shape": [2], "data": 0}
    data = b"[" * 1015 + b'"a",["b"]' + b"]" * 1015
    body = json.dumps({"inputs": [tensor]}).encode().replace(b"0", data)
    assert ask(served, INFER, body)["outputs"][0]["data"] == ["a", "b"]
    with pytest.raises(MalformedError):
        ask(served, INFER, body.replace(b'"b"', b'"b","c"'))


def binary(inputs, *contents, **fields):
    head = json.dumps({"inputs": inputs, **fields}).encode()
    headers = {b"inference-header-content-length": str(len(head)).encode()}
    return head + b"".join(contents), headers


def test_tensors_come_and_go_as_bytes(core):
    content = np.array([[1, 2], [3, 4]], "<f4").tobytes()
    tensor = {
        "name": "x", "datatype": "FP32", "shape": [2, 2],
        "parameters": {"binary_data_size": len(content)},
    }  # fmt: skip
    body, headers = binary([tensor], content, parameters={"binary_data_output": True})

    response = send(core, INFER, body, headers)

    length = int(dict(response.headers)["Inference-Header-Content-Length"])
    (output,) = json.loads(response.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 16}
    assert "data" not in output
    assert response.body[length:] == content
    outputs = [{"name": "x_out", "parameters": {"binary_data": False}}]
    body, headers = binary([tensor], content, outputs=outputs)
    assert ask(core, INFER, body, headers)["outputs"][0]["data"] == [1, 2, 3, 4]


def raw(**changes):
    tensor = given(parameters={"binary_data_size": 8})
    del tensor["data"]
    return tensor | changes


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"inputs": []}, {}),
        ({"inputs": {}}, {}),
        ({}, {}),
        ({"inputs": [1]}, {}),
        ({"inputs": [{"name": "x"}]}, {}),
        ({"inputs": [given(), given()]}, {}),
        ({"inputs": [given(name="y")]}, {}),
        ({"inputs": [given(datatype="INT32")]}, {}),
        ({"inputs": [given(shape=[2])]}, {}),
        ({"inputs": [given(shape=[1, True])]}, {}),
        ({"inputs": [given(shape=[-1, 2])]}, {}),
        ({"inputs": [given(shape=[2**62, 2])]}, {}),
        ({"inputs": [given(data=[1])]}, {}),
        ({"inputs": [given(data=[1, "a"])]}, {}),
        ({"inputs": [given(data=None)]}, {}),
        ({"inputs": [given(parameters=[])]}, {}),
        ({"inputs": [given()], "outputs": [{"name": "y"}]}, {}),
        ({"inputs": [given()], "outputs": [{}]}, {}),
        ({"inputs": [given()], "id": 7}, {}),
        ({"inputs": [given()], "parameters": {"binary_data_output": 1}}, {}),
        (b"{}", {b"inference-header-content-length": b"3"}),
        (b"{}", {b"inference-header-content-length": b"-1"}),
        binary([raw()], bytes(7)),
        binary([raw()], bytes(9)),
        binary([raw(data=[1, 2])], bytes(8)),
        binary([raw(parameters={"binary_data_size": True})], bytes(1)),
        binary([raw(parameters={"binary_data_size": -1})], b""),
        binary([raw(parameters={"binary_data_size": 4})], bytes(4)),
    ],
)
def test_a_request_that_does_not_fit_is_refused(core, body, headers):
    with pytest.raises(MalformedError):
        send(core, INFER, body, headers)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/models/other/infer", {"inputs": [given()]}),
        ("/v2/models/m/versions/3/infer", {"inputs": [given()]}),
        ("/v2/models/other", None),
        ("/v2/models/m/infer", None),
        ("/v2/models/m", {}),
        ("/v2/wish", None),
    ],
)
def test_what_is_not_there_is_not_found(core, path, body):
    with pytest.raises(CasemateError) as caught:
        send(core, path, body)
    assert status_of(caught.value) is Code.NOT_FOUND


VALUES = {
    "FP32": [0.5], "FP64": [0.1], "INT32": [-(2**31)], "UINT8": [255], "INT16": [-5],
    "INT8": [-128], "BYTES": [b"\xc3\xa9"], "INT64": [2**63 - 1], "BOOL": [True], "UINT16": [65535],
    "UINT32": [2**32 - 1], "UINT64": [2**64 - 1],
}  # fmt: skip


@pytest.mark.parametrize("element", ELEMENT_TYPES, ids=lambda each: each.open_name)
def test_every_type_goes_through_grpc_in_both_forms(tmp_path, element):
    onnx_number = {
        "bfloat16": BFLOAT16_IN_ONNX, "float": TensorProto.FLOAT,
    }.get(element.onnx[7:-1]) or TensorProto.DataType.Value(element.onnx[7:-1].upper())  # fmt: skip
    api = OpenInferenceApi(served_core(tmp_path, identity_model(onnx_number)))
    tensor = {"name": "x", "datatype": element.open_name, "shape": [1]}
    values = VALUES.get(element.open_name)
    if values is None:
        content = struct.pack("<H", 0x3C00)
    elif element.open_name == "BYTES":
        content = struct.pack("<I", 2) + values[0]
    else:
        content = np.array(values, element.dtype).tobytes()

    request = wire.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=[content])
    reply = api.model_infer(request)
    assert reply.raw_output_contents[0] == content
    assert (reply.outputs[0].datatype, list(reply.outputs[0].shape)) == (element.open_name, [1])
    if values is not None:
        tensor["contents"] = {element.open_field: values}
        reply = api.model_infer(wire.ModelInferRequest(model_name="m", inputs=[tensor]))
        assert reply.raw_output_contents[0] == content


def test_grpc_says_what_rest_says(core):
    api = OpenInferenceApi(core)
    assert api.server_live(wire.ServerLiveRequest()).live
    assert api.server_ready(wire.ServerReadyRequest()).ready
    assert api.model_ready(wire.ModelReadyRequest(name="m")).ready
    assert not api.model_ready(wire.ModelReadyRequest(name="m", version="no")).ready
    assert api.server_metadata(wire.ServerMetadataRequest()).name == "casemate"
    described = api.model_metadata(wire.ModelMetadataRequest(name="m"))
    assert list(described.inputs[0].shape) == [-1, 2]
    assert list(described.versions) == ["1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"raw_input_contents": [bytes(8), bytes(8)]},
        {"raw_input_contents": [bytes(7)]},
        {"contents": {"fp32_contents": [1]}},
        {"contents": {"int_contents": [1, 2]}},
        {"contents": {"fp32_contents": [1, 2]}, "raw_input_contents": [bytes(8)]},
        {"shape": [1]},
        {"datatype": "INT8"},
        {"name": "y"},
    ],
)
def test_a_grpc_request_that_does_not_fit_is_refused(core, changes):
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2]}
    tensor |= {key: value for key, value in changes.items() if key != "raw_input_contents"}
    request = wire.ModelInferRequest(
        model_name="m",
        inputs=[tensor],
        raw_input_contents=changes.get("raw_input_contents", []),
    )
    with pytest.raises(MalformedError):
        OpenInferenceApi(core).model_infer(request)
