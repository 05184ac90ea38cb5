"""Whatever bytes come, a request is answered or refused with a clear status, never crashed on."""

import contextlib

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.support.onnx_models import identity_model
from tests.support.serving_core import served_core

from casemate.errors import MalformedError
from casemate.serving.dtypes import ELEMENT_TYPES
from casemate.serving.grpc_service import Endpoint, tensorflow_handlers
from casemate.serving.lifecycle import Gate, Waits
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.tensors import decode_tensor, encode_tensor
from casemate.serving.wire import tensorflow_serving_pb2 as wire

LIMIT = 1 << 16
CLEAR = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)
NUMERIC = [element for element in ELEMENT_TYPES if element.number != wire.DT_STRING]


@given(st.data())
def test_what_is_encoded_decodes_to_the_same(data):
    element = data.draw(st.sampled_from(NUMERIC))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    array = data.draw(arrays.arrays(element.dtype, shape))

    again = decode_tensor(encode_tensor(array, element), name="x", max_bytes=LIMIT)

    assert again.dtype == array.dtype
    assert again.shape == array.shape
    np.testing.assert_array_equal(again, array)


@given(st.lists(st.text(max_size=20), max_size=8))
def test_strings_that_are_encoded_decode_to_the_same(texts):
    element = next(each for each in ELEMENT_TYPES if each.number == wire.DT_STRING)
    array = np.array(texts, object)

    again = decode_tensor(encode_tensor(array, element), name="x", max_bytes=LIMIT)

    assert again.tolist() == texts


sizes = st.one_of(st.integers(-2, 5), st.integers(-(2**63), 2**63 - 1))
fields = {
    "tensor_content": st.binary(max_size=64),
    "float_val": st.lists(st.floats(width=32), max_size=8),
    "int_val": st.lists(st.integers(-(2**31), 2**31 - 1), max_size=8),
    "half_val": st.lists(st.integers(-5, 70_000), max_size=8),
    "string_val": st.lists(st.binary(max_size=8), max_size=8),
    "uint64_val": st.lists(st.integers(0, 2**64 - 1), max_size=8),
    "bool_val": st.lists(st.booleans(), max_size=8),
}
tensors = st.builds(
    lambda dtype, shape, unknown, values: wire.TensorProto(
        dtype=dtype,
        tensor_shape={"dim": [{"size": size} for size in shape], "unknown_rank": unknown},
        **values,
    ),
    st.one_of(st.sampled_from([each.number for each in ELEMENT_TYPES]), st.integers(-1, 130)),
    st.lists(sizes, max_size=5),
    st.booleans(),
    st.fixed_dictionaries({}, optional=fields),
)


@given(tensors)
def test_a_tensor_is_an_array_of_its_shape_or_malformed(tensor):
    with contextlib.suppress(MalformedError):
        array = decode_tensor(tensor, name="x", max_bytes=LIMIT)
        assert array.shape == tuple(dim.size for dim in tensor.tensor_shape.dim)
        assert array.nbytes <= LIMIT


class _Context:
    """What a handler says besides its reply."""

    def __init__(self):
        self.code, self.details = grpc.StatusCode.OK, ""

    def cancel(self):
        raise AssertionError("nothing to cancel")

    def time_remaining(self):
        return 60.0

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        self.details = details

    def add_callback(self, callback):
        callback()
        return True


class _Call:
    def __init__(self, method):
        self.method, self.invocation_metadata = method, ()


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    base = tmp_path_factory.mktemp("m")
    core = served_core(base, identity_model(shape=["n", 2]), max_bytes=LIMIT)
    endpoint = Endpoint(core, Gate(8), workers=1, arrivals=Waits(8, 60), departures=Waits(8, 60))
    (handler, *_) = tensorflow_handlers(endpoint, TensorFlowApi(core))
    return handler.service(_Call("/tensorflow.serving.PredictionService/Predict")).stream_unary


def _answer(predict, content):
    context = _Context()
    reply = predict(iter([content]), context)
    if context.code is grpc.StatusCode.OK:
        wire.PredictResponse.FromString(reply)
    else:
        assert context.code in CLEAR
        assert context.details
    return context.code


lenient = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@lenient
@given(st.binary(max_size=200))
def test_any_bytes_get_a_clear_status(predict, content):
    _answer(predict, content)


@lenient
@given(tensors, st.sampled_from(["x", "y"]), st.lists(st.sampled_from(["x_out", "z"]), max_size=2))
def test_any_tensor_gets_a_clear_status(predict, tensor, name, wanted):
    request = wire.PredictRequest(model_spec={"name": "m"}, output_filter=wanted)
    request.inputs[name].CopyFrom(tensor)
    _answer(predict, request.SerializeToString())


@lenient
@given(st.binary(max_size=30), st.integers(0, 60))
def test_a_damaged_request_gets_a_clear_status(predict, noise, position):
    request = wire.PredictRequest(model_spec={"name": "m", "signature_name": "serving_default"})
    request.inputs["x"].CopyFrom(
        wire.TensorProto(
            dtype=1, tensor_shape={"dim": [{"size": 1}, {"size": 2}]}, tensor_content=bytes(8)
        )
    )
    whole = request.SerializeToString()
    assert _answer(predict, whole) is grpc.StatusCode.OK
    _answer(predict, whole[:position] + noise + whole[position + len(noise) :])
