"""Classification, regression, and several of them at once: examples in, classes and values out."""

import contextlib
import json

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.support.onnx_models import as_model
from tests.support.serving_core import served_core

from casemate.errors import MalformedError
from casemate.serving.core import Answer, Output
from casemate.serving.dtypes import BY_NUMBER
from casemate.serving.examples import (
    check_method,
    classes_of,
    examples_from,
    feed_examples,
    values_of,
)
from casemate.serving.signature import Port, Signature, TensorSpec
from casemate.serving.status import Code, RequestError
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.wire import tensorflow_serving_pb2 as wire

SIGNATURES = {
    "scores": {"method": "classify", "outputs": {"scores": "y"}, "classes": ["cat", "dog"]},
    "unnamed": {"method": "classify", "outputs": {"scores": "y"}},
    "value": {"method": "regress", "outputs": {"outputs": "sum"}},
    "serving_default": {"outputs": {"y": "y"}},
}


def model():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Cast", ["k"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "f"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axis"], ["sum"], keepdims=1),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    return as_model(
        nodes,
        [info("x", TensorProto.FLOAT, ["n", 2]), info("k", TensorProto.INT8, ["n", 1])],
        [info("y", TensorProto.FLOAT, ["n", 2]), info("sum", TensorProto.FLOAT, ["n", 1])],
        [axis],
    )


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    signatures = json.dumps({"format": 1, "signatures": SIGNATURES})
    core = served_core(tmp_path_factory.mktemp("m"), model(), signatures=signatures)
    return TensorFlowApi(core)


def example(**features):
    made = wire.Example()
    for name, values in features.items():
        feature = made.features.feature[name]
        if isinstance(values[0], float):
            feature.float_list.value.extend(values)
        elif isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(values)
    return made


def listed(*examples, context=None):
    if context is None:
        return wire.Input(example_list={"examples": examples})
    return wire.Input(example_list_with_context={"examples": examples, "context": context})


TWO = listed(example(x=[1.0, 2.0], k=[1]), example(x=[3.0, 4.0], k=[-1]))


def spec(signature):
    return {"name": "m", "signature_name": signature}


def test_each_example_is_classified(api):
    reply = api.classify(wire.ClassificationRequest(model_spec=spec("scores"), input=TWO))

    rows = [[(c.label, c.score) for c in row.classes] for row in reply.result.classifications]
    assert rows == [[("cat", 2), ("dog", 3)], [("cat", 2), ("dog", 3)]]
    assert reply.model_spec.version.value == 1
    assert reply.model_spec.signature_name == "scores"


def test_classes_without_labels_have_empty_ones(api):
    reply = api.classify(wire.ClassificationRequest(model_spec=spec("unnamed"), input=TWO))
    assert reply.result.classifications[0].classes[1].label == ""


def test_each_example_gets_its_value_and_the_context_fills_in(api):
    given = listed(example(x=[1.0, 2.0]), example(x=[3, 4], k=[0]), context=example(k=[2]))
    reply = api.regress(wire.RegressionRequest(model_spec=spec("value"), input=given))
    assert [each.value for each in reply.result.regressions] == [7, 7]


def test_several_signatures_run_on_one_input(api):
    request = wire.MultiInferenceRequest(input=TWO)
    request.tasks.add(model_spec=spec("scores"), method_name="tensorflow/serving/classify")
    request.tasks.add(model_spec=spec("value"), method_name="tensorflow/serving/regress")

    classified, regressed = api.multi_inference(request).results

    assert classified.classification_result.classifications[0].classes[0].label == "cat"
    assert [each.value for each in regressed.regression_result.regressions] == [5, 5]


def test_a_signature_of_another_method_is_refused(api):
    with pytest.raises(RequestError) as caught:
        api.classify(wire.ClassificationRequest(model_spec=spec("value"), input=TWO))
    assert caught.value.status is Code.INVALID_ARGUMENT
    with pytest.raises(RequestError):
        api.regress(wire.RegressionRequest(model_spec=spec("serving_default"), input=TWO))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (wire.Input(), "at least one example"),
        (listed(), "at least one example"),
        (listed(example(x=[1.0, 2.0])), "the feature 'k'"),
        (listed(example(x=[1.0], k=[1])), r"values for DT_FLOAT \[\?, 2\]"),
        (listed(example(x=[1.0, 2.0], k=[1]), example(x=[1.0], k=[1])), "2 values"),
        (listed(example(x=[b"1", b"2"], k=[1])), "a list of float or int"),
        (listed(example(x=[1.0, 2.0], k=[1.0])), "a list of int"),
        (listed(example(x=[1.0, 2.0], k=[300])), "values that DT_INT8 can hold"),
    ],
)
def test_examples_that_do_not_fit_are_refused(api, given, says):
    with pytest.raises(MalformedError, match=says):
        api.classify(wire.ClassificationRequest(model_spec=spec("scores"), input=given))


@pytest.mark.parametrize(
    "tasks",
    [
        [],
        [("m", "scores", "classify"), ("m", "scores", "classify")],
        [("m", "scores", "classify"), ("other", "value", "regress")],
    ],
)
def test_tasks_are_different_signatures_of_one_model(api, tasks):
    request = wire.MultiInferenceRequest(input=TWO)
    for name, signature, method in tasks:
        request.tasks.add(
            model_spec={"name": name, "signature_name": signature},
            method_name=f"tensorflow/serving/{method}",
        )
    with pytest.raises(MalformedError, match="different signatures of one model"):
        api.multi_inference(request)


def test_another_method_among_tasks_is_unimplemented(api):
    request = wire.MultiInferenceRequest(input=TWO)
    request.tasks.add(model_spec=spec("scores"), method_name="tensorflow/serving/predict")
    with pytest.raises(RequestError) as caught:
        api.multi_inference(request)
    assert caught.value.status is Code.UNIMPLEMENTED


def whole(method="predict", outputs=("scores", "classes")):
    """A signature as TensorFlow has them for examples."""
    types = {"scores": wire.DT_FLOAT, "classes": wire.DT_STRING, "outputs": wire.DT_FLOAT}

    def port(name, number):
        shape = (None,) if name == "inputs" else (None, None)
        spec = TensorSpec(name=name, element=BY_NUMBER[number], shape=shape)
        return Port(spec=spec, tensor=spec, any_bytes=True)

    return Signature(
        name="s",
        method=method,
        inputs={"inputs": port("inputs", wire.DT_STRING)},
        outputs={name: port(name, types.get(name, wire.DT_FLOAT)) for name in outputs},
        serialized=True,
    )


def test_examples_go_in_whole_where_the_model_parses_them_itself():
    context = example(k=[7], x=[9.0], s=[b"\xff"])
    given = listed(example(x=[1.0, 2.0]), example(k=[1]), context=context)

    made = feed_examples(examples_from(given), whole(), max_bytes=1 << 20)["inputs"]

    assert made.shape == (2,)
    assert [wire.Example.FromString(each) for each in made] == [
        example(k=[7], x=[1.0, 2.0], s=[b"\xff"]), example(k=[1], x=[9.0], s=[b"\xff"]),
    ]  # fmt: skip


def test_a_context_that_would_be_multiplied_beyond_the_limit_is_refused():
    given = listed(*[wire.Example()] * 5000, context=example(s=[bytes(1000)]))
    with pytest.raises(MalformedError, match="fit into a request"):
        feed_examples(examples_from(given), whole(), max_bytes=1 << 20)


@pytest.mark.parametrize(
    ("method", "outputs", "fits"),
    [
        ("classify", ("scores",), True),
        ("classify", ("classes", "other"), True),
        ("classify", ("outputs",), False),
        ("regress", ("outputs",), True),
        ("regress", ("scores",), False),
    ],
)
def test_what_takes_whole_examples_is_known_by_what_it_gives(method, outputs, fits):
    """TensorFlow 2 calls every signature's method predict."""
    with contextlib.nullcontext() if fits else pytest.raises(RequestError):
        check_method(whole(outputs=outputs), method)


def answer(**arrays):
    outputs = tuple(
        Output(name=name, element=BY_NUMBER[wire.DT_FLOAT], array=np.array(array))
        for name, array in arrays.items()
    )
    return Answer(model="m", version=1, signature=whole(), outputs=outputs)


def test_labels_that_a_model_gives_as_bytes_are_text():
    labels = np.array([[b"cat", "d\xf6g".encode(), b"\xff"]], object)
    (row,) = classes_of(answer(scores=[[0.5, 0.25, 0.25]], classes=labels), 1)
    assert [label for label, _ in row] == ["cat", "d\xf6g", "\ufffd"]


@pytest.mark.parametrize(
    ("read", "arrays"),
    [
        (classes_of, {"other": [[1.0]]}),
        (classes_of, {"scores": [["a"]]}),
        (classes_of, {"scores": [1.0]}),
        (classes_of, {"classes": [[1.0]]}),
        (values_of, {"other": [1.0]}),
        (values_of, {"outputs": [[1.0, 2.0]]}),
        (values_of, {"outputs": ["a"]}),
    ],
)
def test_an_answer_of_another_form_is_refused(read, arrays):
    with pytest.raises(RequestError, match="what its signature says"):
        read(answer(**arrays), 1)


def test_other_outputs_beside_a_value_are_left_alone():
    assert values_of(answer(outputs=[1.5], other=[[2.0]]), 1) == [1.5]
