"""Whatever JSON or bytes come over REST, a request is answered or refused with a clear status."""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from tests.support.onnx_models import identity_model
from tests.support.serving_core import served_core

from casemate.errors import CasemateError
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.rest.http import Request
from casemate.serving.rest.open_inference import OpenInferenceRest
from casemate.serving.rest.tensorflow import TensorFlowRest
from casemate.serving.status import Code, status_of
from casemate.serving.wire import open_inference_pb2 as wire

LIMIT = 1 << 16
CLEAR = {
    Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED,
    Code.RESOURCE_EXHAUSTED,
}  # fmt: skip
lenient = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

words = st.sampled_from(
    ["x", "x_out", "b64", "instances", "inputs", "outputs", "signature_name", "examples", "context",
     "name", "datatype", "shape", "data", "parameters", "binary_data_size", "binary_data", "FP32",
     "BYTES", "id", "serving_default", "aGk=", "NaN"]
)  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-2, 5)
    | st.floats()
    | words
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=5),
    max_leaves=20,
)
documents = st.dictionaries(words, values, max_size=6)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "y"]) | values,
        "datatype": st.sampled_from(["FP32", "BYTES", "INT8"]) | values,
        "shape": st.lists(st.integers(-2, 3) | values, max_size=3) | values,
        "data": values,
        "parameters": st.dictionaries(words, values, max_size=2) | values,
    },
)


@pytest.fixture(scope="module", params=[TensorProto.FLOAT, TensorProto.STRING, TensorProto.INT8])
def core(request, tmp_path_factory):
    return served_core(
        tmp_path_factory.mktemp("m"), identity_model(request.param, ["n", 2]), max_bytes=LIMIT
    )


def answer(served, path, body, headers=()):
    request = Request(method="POST", path=path, headers=dict(headers), body=body)
    try:
        *_, response = served.answer(request, time.monotonic() + 60)
    except CasemateError as error:
        refused = error
    else:
        assert response.status == 200
        return
    assert status_of(refused) in CLEAR
    assert str(refused)


def v1(core):
    return TensorFlowRest(core, max_json_bytes=LIMIT)


def v2(core):
    return OpenInferenceRest(core, max_json_bytes=LIMIT)


@lenient
@given(st.binary(max_size=200), st.sampled_from(["predict", "classify", "regress"]))
def test_any_bytes_are_answered_clearly(core, content, method):
    answer(v1(core), f"/v1/models/m:{method}", content)
    answer(v2(core), "/v2/models/m/infer", content)


@lenient
@given(documents, st.sampled_from(["predict", "classify", "regress"]))
def test_any_json_is_answered_clearly(core, document, method):
    content = json.dumps(document).encode()
    answer(v1(core), f"/v1/models/m:{method}", content)
    answer(v2(core), "/v2/models/m/infer", content)


@lenient
@given(values, st.booleans())
def test_any_value_for_the_input_is_answered_clearly(core, value, by_row):
    document = {"instances" if by_row else "inputs": value}
    answer(v1(core), "/v1/models/m:predict", json.dumps(document).encode())


@lenient
@given(st.lists(tensors, max_size=2), st.binary(max_size=40), st.integers(-1, 60), documents)
def test_any_tensors_with_binary_data_are_answered_clearly(core, inputs, tail, length, rest):
    head = json.dumps({**rest, "inputs": inputs}).encode()
    size = len(head) if length < 0 else length
    headers = {b"inference-header-content-length": str(size).encode()}
    answer(v2(core), "/v2/models/m/infer", head + tail, headers)


@lenient
@given(
    st.text(max_size=30)
    | st.sampled_from(["/v1/models/%00", "/v1/models/m/versions/99999999999999999999:predict"])
)
def test_any_path_is_answered_clearly(core, path):
    for served in (v1(core), v2(core)):
        answer(served, path, b"{}")
        answer(served, "/v1/models/" + path, b"{}")
        answer(served, "/v2/models/" + path + "/infer", b"{}")


contents = st.fixed_dictionaries(
    {},
    optional={
        "fp32_contents": st.lists(st.floats(width=32), max_size=4),
        "int_contents": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
        "bytes_contents": st.lists(st.binary(max_size=4), max_size=4),
    },
)


@lenient
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["x", "y"]),
                "datatype": st.sampled_from(["FP32", "BYTES", "INT8", "FP16", ""]),
                "shape": st.lists(
                    st.integers(-2, 3) | st.integers(-(2**63), 2**63 - 1), max_size=3
                ),
                "contents": contents,
            }
        ),
        max_size=2,
    ),
    st.lists(st.binary(max_size=20), max_size=2),
)
def test_any_tensors_over_grpc_are_answered_clearly(core, inputs, raw):
    request = wire.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=raw)
    try:
        OpenInferenceApi(core).model_infer(request)
    except CasemateError as error:
        refused = error
    else:
        return
    assert status_of(refused) in CLEAR
