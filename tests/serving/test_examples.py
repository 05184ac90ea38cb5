"""Classification, regression, and several of them at once: examples in, classes and values out."""

import json

import pytest
from onnx import TensorProto, helper
from tests.support.onnx_models import as_model
from tests.support.serving_core import served_core

from casemate.errors import MalformedError
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
