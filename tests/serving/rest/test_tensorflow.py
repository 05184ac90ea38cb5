"""TensorFlow Serving's REST interface: forms of requests, of answers, and of refusals."""

import base64
import contextlib
import gc
import io
import json
import time

import pytest
from onnx import TensorProto, helper
from PIL import Image
from tests.support.onnx_models import as_model, identity_model
from tests.support.serving_core import served_core

from casemate.errors import CasemateError, MalformedError
from casemate.serving.rest.http import Request
from casemate.serving.rest.json_tensors import parse
from casemate.serving.rest.tensorflow import TensorFlowRest
from casemate.serving.status import Code, status_of


def rest(base, model, signatures=None):
    document = json.dumps({"format": 1, "signatures": signatures}) if signatures else ""
    return TensorFlowRest(served_core(base, model, signatures=document), max_json_bytes=1 << 16)


def ask(served, path, body=None, method=None):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = Request(
        method=method or ("GET" if body is None else "POST"), path=path, headers={}, body=content
    )
    *_, response = served.answer(request, time.monotonic() + 60)
    assert response.status == 200
    return json.loads(response.body)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return rest(tmp_path_factory.mktemp("m"), identity_model(shape=["n", 2]))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return rest(tmp_path_factory.mktemp("m"), identity_model(shape=["n"], inputs=("a", "b")))


PREDICT = "/v1/models/m:predict"


def test_rows_of_one_input(one):
    given = [[1, 2.5], [3, 4]]
    assert ask(one, PREDICT, {"instances": given}) == {"predictions": [[1.0, 2.5], [3.0, 4.0]]}
    assert ask(one, PREDICT, {"instances": [{"x": row} for row in given]}) == {
        "predictions": [[1.0, 2.5], [3.0, 4.0]]
    }


def test_columns_of_one_input(one):
    for inputs in ([[1, 2]], {"x": [[1, 2]]}):
        assert ask(one, PREDICT, {"inputs": inputs}) == {"outputs": [[1.0, 2.0]]}


def test_rows_and_columns_of_two_inputs(two):
    rows = {"instances": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}
    assert ask(two, PREDICT, rows) == {
        "predictions": [{"a_out": 1.0, "b_out": 2.0}, {"a_out": 3.0, "b_out": 4.0}]
    }
    columns = {"inputs": {"a": [1, 3], "b": [2]}}
    assert ask(two, PREDICT, columns) == {"outputs": {"a_out": [1.0, 3.0], "b_out": [2.0]}}


def test_numbers_are_written_with_the_fewest_digits_and_words_where_there_are_none(one):
    request = Request(
        method="POST",
        path=PREDICT,
        headers={},
        body=b'{"instances": [[0.386, NaN], [1e30, -Infinity]]}',
    )
    *_, response = one.answer(request, time.monotonic() + 60)
    assert response.body == b'{"predictions":[[0.386,NaN],[1e+30,-Infinity]]}'
    *_, response = one.answer(
        Request(method="POST", path=PREDICT, headers={}, body=b'{"instances": [[0.386, 1]]}'),
        time.monotonic() + 60,
    )
    assert response.body == b'{"predictions":[[0.386,1.0]]}'


@pytest.mark.parametrize(
    ("element", "given"),
    [
        (TensorProto.INT64, [2**63 - 1, -(2**63)]),
        (TensorProto.UINT64, [2**64 - 1, 0]),
        (TensorProto.INT8, [-128, 127]),
        (TensorProto.BOOL, [True, False]),
        (TensorProto.FLOAT16, [0.5, 65504.0]),
        (TensorProto.BFLOAT16, [0.5, -3.0]),
        (TensorProto.STRING, ["a", "é"]),
        (TensorProto.FLOAT, []),
    ],
)
def test_every_type_goes_through(tmp_path, element, given):
    served = rest(tmp_path, identity_model(element))
    assert ask(served, PREDICT, {"inputs": given}) == {"outputs": given}


def test_bytes_are_base64_both_ways(tmp_path):
    signature = {"serving_default": {"outputs": {"y_bytes": "x_out", "y": "x_out"}}}
    served = rest(tmp_path, identity_model(TensorProto.STRING), signature)

    answer = ask(served, PREDICT, {"instances": [{"b64": "aGk="}, "ho"]})

    assert answer == {
        "predictions": [
            {"y_bytes": {"b64": "aGk="}, "y": "hi"},
            {"y_bytes": {"b64": "aG8="}, "y": "ho"},
        ]
    }


@pytest.mark.parametrize("text", ["aGkh\naG8=\n", "aGkhaG8", " aGkh aG8= "])
def test_base64_may_come_in_lines_and_without_its_padding(tmp_path, text):
    """As TensorFlow Serving takes it, and Python's ``encodebytes`` gives it."""
    served = rest(tmp_path, identity_model(TensorProto.STRING))
    assert ask(served, PREDICT, {"instances": [{"b64": text}]}) == {"predictions": ["hi!ho"]}


def test_a_picture_comes_as_base64(tmp_path):
    model = identity_model(TensorProto.UINT8, ["n", 1, 1, 3], inputs=("p",))
    signature = {"serving_default": {"inputs": {"image": {"tensor": "p", "picture": {}}}}}
    content = io.BytesIO()
    Image.new("RGB", (3, 3), (9, 8, 7)).save(content, "PNG")
    encoded = {"b64": base64.b64encode(content.getvalue()).decode()}

    served = rest(tmp_path, model, signature)

    for instance in (encoded, {"image": encoded}):
        answer = ask(served, PREDICT, {"instances": [instance]})
        assert answer == {"predictions": [[[[9, 8, 7]]]]}


def test_classification_and_regression(tmp_path):
    info = helper.make_tensor_value_info
    model = as_model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [info("x", TensorProto.FLOAT, ["n", 1])],
        [info("y", TensorProto.FLOAT, ["n", 1])],
    )
    served = rest(
        tmp_path,
        model,
        {
            "c": {"method": "classify", "outputs": {"scores": "y"}, "classes": ["cat"]},
            "r": {"method": "regress", "outputs": {"outputs": "y"}},
        },
    )
    examples = [{"x": 0.5}, {"x": [2]}]
    classified = ask(served, "/v1/models/m:classify", {"signature_name": "c", "examples": examples})
    assert classified == {"results": [[["cat", 0.5]], [["cat", 2.0]]]}
    regressed = ask(
        served, "/v1/models/m:regress",
        {"signature_name": "r", "examples": [{}], "context": {"x": 1.5}},
    )  # fmt: skip
    assert regressed == {"results": [1.5]}


@pytest.mark.parametrize("value", [1 << 63, 10**400, [0.5, 10**400]], ids=["63", "whole", "mixed"])
def test_numbers_that_no_example_can_hold_are_the_clients_fault(tmp_path, value):
    signature = {"method": "regress", "outputs": {"outputs": "x_out"}}
    served = rest(tmp_path, identity_model(shape=["n", "m"]), {"serving_default": signature})
    # Beside a word that JSON doesn't have, numbers are read whatever their length.
    body = {"word": float("nan"), "examples": [{"x": value}]}
    with pytest.raises(MalformedError):
        ask(served, "/v1/models/m:regress", body)


@pytest.mark.parametrize(
    ("method", "answer"),
    [("classify", b'{"results":[[["cat",0.1]]]}'), ("regress", b'{"results":[0.1]}')],
)
def test_scores_and_values_are_written_with_the_fewest_digits(tmp_path, method, answer):
    name, labels = ("scores", ["cat"]) if method == "classify" else ("outputs", None)
    signature = {"method": method, "outputs": {name: "x_out"}}
    if labels:
        signature["classes"] = labels
    served = rest(tmp_path, identity_model(shape=["n", 1]), {"serving_default": signature})
    request = Request(
        method="POST",
        path=f"/v1/models/m:{method}",
        headers={},
        body=b'{"examples": [{"x": 0.1}]}',
    )
    *_, response = served.answer(request, time.monotonic() + 60)
    assert response.body == answer


def test_columns_that_no_input_is_named_after_are_left_alone(two):
    """As TensorFlow Serving does; a row of such is refused there, too."""
    columns = {"a": [1], "b": [2], "note": "mine"}
    assert ask(two, PREDICT, {"inputs": columns}) == {"outputs": {"a_out": [1.0], "b_out": [2.0]}}


def test_status_and_metadata_have_the_references_form(one):
    status = {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    for path in ("/v1/models/m", "/v1/models/m/versions/1"):
        assert ask(one, path) == {"model_version_status": [status]}
    metadata = ask(one, "/v1/models/m/metadata")
    assert metadata["model_spec"] == {"name": "m", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"] == {
        "name": "x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {
            "dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}],
            "unknown_rank": False,
        },
    }


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/v1/models/other:predict", {"instances": [[1, 2]]}, Code.NOT_FOUND),
        ("/v1/models/m/versions/9:predict", {"instances": [[1, 2]]}, Code.NOT_FOUND),
        ("/v1/models/m/labels/x:predict", {"instances": [[1, 2]]}, Code.INVALID_ARGUMENT),
        ("/v1/models/m:guess", {}, Code.INVALID_ARGUMENT),
        ("/v1/models/m:predict", None, Code.INVALID_ARGUMENT),
        ("/v1/models/other", None, Code.NOT_FOUND),
        ("/v1/models/m/versions/9", None, Code.NOT_FOUND),
        (PREDICT, {"instances": [[1, 2]], "signature_name": "x"}, Code.FAILED_PRECONDITION),
    ],
)
def test_what_is_not_there_is_refused_as_the_reference_does(one, path, body, code):
    with pytest.raises(CasemateError) as caught:
        ask(one, path, body)
    assert status_of(caught.value) is code


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"\xff", b"[" * 70_000, b"NaN", b'{"instances": NaN}',
        b'{"signature_name": "\\ud800", "instances": [[1, NaN]]}',
        {}, {"instances": []}, {"instances": 1}, {"instances": [[1, 2]], "inputs": [[1, 2]]},
        {"instances": [[1, 2], [3]]}, {"instances": [[1, "a"]]}, {"instances": [[1, None]]},
        {"instances": [[True, False]]}, {"instances": [[1, 2, 3]]}, {"instances": [[[1, 2]]]},
        {"instances": [{"x": [1, 2]}, [1, 2]]}, {"instances": [{"x": [1, 2], "y": 1}]},
        {"instances": [{"b64": "AAAA"}]}, {"inputs": {"y": [[1, 2]]}}, {"inputs": {}},
        {"instances": [[1, 2]], "signature_name": 5}, {"instances": [[[[[1]]]] * 40]},
        {"instances": [["x" * 70_000, 1]]}, {"inputs": [[1, 10**30]], "signature_name": None},
    ],
)  # fmt: skip
def test_a_body_that_does_not_fit_is_refused(one, body):
    with pytest.raises(MalformedError):
        ask(one, PREDICT, body, "POST")


@pytest.mark.parametrize(
    ("element", "given"),
    [
        (TensorProto.INT8, [128]),
        (TensorProto.INT8, [1.5]),
        (TensorProto.UINT8, [-1]),
        (TensorProto.INT64, [2**63]),
        (TensorProto.INT64, [2**70]),
        (TensorProto.BOOL, [1]),
        (TensorProto.STRING, [1]),
        (TensorProto.STRING, [{"b64": "_"}]),
        (TensorProto.STRING, [{"b64": "/w=="}]),
        (TensorProto.STRING, ["a", ["b"]]),
        (TensorProto.FLOAT, ["1"]),
    ],
)
def test_a_value_that_the_type_cannot_hold_is_refused(tmp_path, element, given):
    with pytest.raises(MalformedError):
        ask(rest(tmp_path, identity_model(element)), PREDICT, {"inputs": given})


def test_rows_of_outputs_that_have_none_are_refused(tmp_path):
    info = helper.make_tensor_value_info
    model = as_model(
        [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)],
        [info("x", TensorProto.FLOAT, ["n"])],
        [info("y", TensorProto.FLOAT, [])],
    )
    served = rest(tmp_path, model)
    assert ask(served, PREDICT, {"inputs": [1, 2]}) == {"outputs": 3.0}
    with pytest.raises(CasemateError, match="row by row"):
        ask(served, PREDICT, {"instances": [1, 2]})


@pytest.mark.parametrize("body", [b'{"inputs": [[1, 2]]}', b'{"inputs": [[1, 2}', b'{"a": NaN}'])
def test_the_collector_of_cycles_pauses_for_the_parser_alone(body):
    with contextlib.suppress(MalformedError):
        parse(body, max_bytes=100)

    assert gc.isenabled()
