"""A folder with a SavedModel as the server meets it, where TensorFlow isn't installed."""

import importlib.util

import pytest
from tests.support.onnx_models import identity_model, put_model
from tests.support.saved_models import meta_graph, node, put_saved_model, saved

from casemate.errors import MalformedError, UsageError
from casemate.serving.model import EngineOptions
from casemate.serving.saved_model.graph import check_saved_model
from casemate.serving.saved_model.loading import load_saved_model, read_signatures
from casemate.serving.source import list_versions
from casemate.serving.wire import tensorflow_serving_pb2 as wire


def signatures(graph):
    return read_signatures(check_saved_model(saved(graph), folder="/m/1"))


@pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is installed here"
)
def test_without_tensorflow_it_says_what_to_install(tmp_path):
    base = put_saved_model(tmp_path, saved(meta_graph()))

    with pytest.raises(UsageError) as raised:
        load_saved_model(base / "1", EngineOptions())
    assert raised.value.code == "serving.engine"
    assert "casemate[tensorflow]" in (raised.value.remedy or "")


def test_it_is_looked_at_before_that(tmp_path):
    base = put_saved_model(tmp_path, saved(meta_graph([node("r", "ReadFile")])))

    with pytest.raises(MalformedError, match="ReadFile"):
        load_saved_model(base / "1", EngineOptions())


def test_a_folder_with_either_is_a_version_and_onnx_comes_first(tmp_path):
    put_saved_model(tmp_path, saved(meta_graph()), version=1)
    put_model(tmp_path, identity_model(), version=2)
    put_saved_model(tmp_path, saved(meta_graph()), version=2)

    found = list_versions(tmp_path)
    assert {number: each.file.name for number, each in found.items()} == {
        1: "saved_model.pb", 2: "model.onnx",
    }  # fmt: skip


def test_signatures_have_the_graphs_names_types_and_shapes():
    graph = meta_graph()
    graph.signature_def["serving_default"].outputs["y"].tensor_shape.unknown_rank = True

    (signature,) = signatures(graph).values()
    assert (signature.name, signature.method) == ("serving_default", "predict")
    assert str(signature.inputs["x"].spec) == "DT_FLOAT [?]"
    assert signature.inputs["x"].tensor.name == "x:0"
    assert signature.outputs["y"].spec.fits((1, 2, 3))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda it: setattr(it.inputs["x"], "dtype", 8), "serving_default.x"),
        (lambda it: setattr(it.inputs["x"], "name", "x"), "serving_default.x"),
        (lambda it: setattr(it, "method_name", "train"), "serving_default.method_name"),
        (lambda it: it.outputs.clear(), "serving_default"),
    ],
)
def test_a_signature_that_cant_be_served_is_refused(change, field):
    graph = meta_graph()
    change(graph.signature_def["serving_default"])

    with pytest.raises(MalformedError) as raised:
        signatures(graph)
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("alias", "element", "shape", "whole"),
    [
        ("inputs", wire.DT_STRING, [-1], True),
        ("inputs", wire.DT_STRING, None, True),
        ("inputs", wire.DT_STRING, [-1, 1], False),
        ("inputs", wire.DT_FLOAT, [-1], False),
        ("words", wire.DT_STRING, [-1], False),
    ],
)
def test_an_input_for_serialized_examples_is_known_by_name_and_type(alias, element, shape, whole):
    graph = meta_graph()
    found = graph.signature_def["serving_default"]
    info = found.inputs[alias]
    info.CopyFrom(found.inputs["x"])
    if alias != "x":
        del found.inputs["x"]
    info.dtype = element
    info.tensor_shape.Clear()
    info.tensor_shape.unknown_rank = shape is None
    for size in shape or ():
        info.tensor_shape.dim.add(size=size)

    (signature,) = signatures(graph).values()
    assert signature.serialized is whole
