"""Reading a SavedModel's graph: a value or ``MalformedError``, and what is in it."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.saved_models import asset, function, init, meta_graph, node, output, saved
from tests.support.saved_models import with_vocabularies as vocabularies

from casemate.errors import MalformedError
from casemate.serving.saved_model.files import check_keras_metadata
from casemate.serving.saved_model.graph import check_saved_model
from casemate.serving.saved_model.operations import (
    ASSET_READERS,
    CHECKPOINT_READERS,
    COMPUTING,
    REMEMBERING,
    SAVING,
)
from casemate.serving.saved_model.wire import saved_model_pb2 as wire

SEED = saved(vocabularies("a.txt", "b.txt"))


def check(graph):
    return check_saved_model(saved(graph), folder="/m/1")


def test_it_says_what_prepares_the_model_and_what_it_is_fed():
    graph = vocabularies("a.txt")
    graph.graph_def.node.extend([node("path", "Placeholder"), node("r", "RestoreV2", ["path"])])
    graph.saver_def.restore_op_name, graph.saver_def.filename_tensor_name = "r", "path:0"

    checked = check(graph)

    assert (checked.restore_op, checked.checkpoint_tensor) == ("r", "path:0")
    assert checked.init_op == "ready"
    assert checked.assets == {"a_0:0": "/m/1/assets/a.txt"}


def test_assets_are_found_where_tensorflow_1_keeps_them_and_checked_there_too():
    graph = meta_graph()
    kept = graph.collection_def["saved_model_assets"].any_list.value
    for tensor, name in (("x:0", "a.txt"), ("y:0", "../b.txt")):
        one = wire.AssetFileDef(tensor_info={"name": tensor}, filename=name)
        kept.add(value=one.SerializeToString())
        if tensor == "x:0":
            assert check(graph).assets == {"x:0": "/m/1/assets/a.txt"}

    with pytest.raises(MalformedError, match="asset_file_def"):
        check(graph)
    kept[0].value = b"\xff"
    with pytest.raises(MalformedError, match="saved_model_assets"):
        check(graph)


def test_what_makes_it_ready_is_no_way_to_ask():
    graph = meta_graph([node("ready", "NoOp")])
    graph.signature_def["__saved_model_init_op"].outputs["o"].name = "ready"

    assert list(check(graph).signatures) == ["serving_default"]
    assert check(graph).init_op == "ready"


def test_what_isnt_looked_at_stays_as_it_is():
    graph = meta_graph()
    raw = graph.SerializeToString() + b"\x9a\x06\x03abc"  # a field of a later TensorFlow

    model = wire.SavedModel(meta_graphs=[wire.MetaGraphDef.FromString(raw)]).SerializeToString()

    assert b"\x9a\x06\x03abc" in check_saved_model(model, folder="/m/1").meta_graph


def test_so_does_an_attribute_that_is_empty():
    graph = meta_graph()
    attributes = {"shared_name": b"\x12\x00", "T": b"\x30\x00", "keep": b"\x28\x00"}
    for name, raw in attributes.items():
        graph.graph_def.node[0].attr[name].ParseFromString(raw)

    kept = wire.MetaGraphDef.FromString(check(graph).meta_graph).graph_def.node[0].attr

    assert {name: kept[name].SerializeToString() for name in attributes} == attributes


@pytest.mark.parametrize("tags", [[], ["train"]])
def test_without_a_graph_to_serve_it_is_refused(tags):
    graph = meta_graph()
    graph.meta_info_def.tags[:] = tags

    with pytest.raises(MalformedError, match="tag serve"):
        check(graph)


def _a_tensor_for_two_assets(graph):
    for name in ("a", "b"):
        asset(graph, "x:0", name)


def _twice_to_prepare(graph):
    graph.graph_def.node.append(node("other", "NoOp"))
    init(graph, "x")
    init(graph, "other")


BROKEN = {
    "two graphs to serve": None,
    "no signature": lambda graph: graph.signature_def.clear(),
    "a missing node": lambda graph: output(graph, "nowhere:0"),
    "a node twice": lambda graph: graph.graph_def.node.append(node("x", "Placeholder")),
    "a node without a name": lambda graph: graph.graph_def.node.append(node("", "NoOp")),
    "a function twice": lambda graph: graph.graph_def.library.function.extend(
        [function("f", []), function("f", [])]
    ),
    "a tensor for two assets": _a_tensor_for_two_assets,
    "two ways to prepare": _twice_to_prepare,
    "a reader without a path": lambda graph: graph.graph_def.node.append(node("r", "RestoreV2")),
    "a path that only comes before": lambda graph: graph.graph_def.node.append(
        node("r", "RestoreV2", ["^x"])
    ),
    "a name that is taken": lambda graph: graph.graph_def.node.extend(
        [node("casemate_fixed_path_0", "NoOp"), node("r", "RestoreV2", ["x"])]
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_graph_is_refused(name):
    graph = meta_graph()
    content = wire.SavedModel(meta_graphs=[graph, graph]).SerializeToString()
    if BROKEN[name]:
        BROKEN[name](graph)
        content = saved(graph)

    with pytest.raises(MalformedError) as raised:
        check_saved_model(content, folder="/m/1")
    assert raised.value.code == "serving.saved-model"


def test_a_path_through_functions_that_call_each_other_ends():
    calls = [node(name, "PartitionedCall", ["a"], f="__f") for name in "cd"]
    graph = vocabularies("a.txt", "b.txt")
    reader = node("t", "InitializeTableFromTextFileV2", ["a", "a"])
    graph.graph_def.library.function.append(function("__f", [*calls, reader], ["a"]))

    with pytest.raises(MalformedError, match="one of the assets"):
        check(graph)


def test_the_lists_share_no_operation():
    readers = frozenset(CHECKPOINT_READERS), frozenset(ASSET_READERS)
    lists = [COMPUTING, REMEMBERING, SAVING, *readers]

    assert len(frozenset().union(*lists)) == sum(map(len, lists))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_graph_or_a_malformed_error(content):
    with contextlib.suppress(MalformedError):
        check_saved_model(content, folder="/m/1")
    with contextlib.suppress(MalformedError):
        check_keras_metadata(content)


@settings(max_examples=300)
@given(st.integers(0, len(SEED) - 1), st.binary(min_size=1, max_size=4))
def test_so_do_damaged_graphs(position, damage):
    content = SEED[:position] + damage + SEED[position + len(damage) :]

    with contextlib.suppress(MalformedError):
        check_saved_model(content, folder="/m/1")
