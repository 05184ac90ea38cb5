"""A SavedModel is a program by a stranger: what it may not do once it is loaded."""

import json

import pytest
from tests.support.saved_models import (
    asset,
    function,
    init,
    meta_graph,
    node,
    output,
    put_saved_model,
    saved,
    with_vocabularies,
)

from casemate.errors import MalformedError
from casemate.serving.saved_model.files import check_keras_file, read_saved_model
from casemate.serving.saved_model.graph import check_saved_model
from casemate.serving.saved_model.wire import saved_model_pb2 as wire

REACHING = [
    "ReadFile", "WriteFile", "MatchingFiles", "ImmutableConst", "DecodeProtoV2", "DebugIdentity",
    "FixedUnigramCandidateSampler", "GenerateVocabRemapping", "LoadAndRemapMatrix",
    "WholeFileReaderV2", "TFRecordDatasetV2", "TextLineDataset", "GeneratorDataset",
    "PyFunc", "PyFuncStateless", "EagerPyFunc", "PrintV2", "Print",
    "RemoteCall", "RpcCall", "RpcServer", "_Send", "_Recv", "CollectiveReduceV2",
    "SaveSlices", "Save", "Restore", "RestoreSlice", "Skipgram", "XlaLaunch", "SymbolicGradient",
    "Addons>Custom", "MyOwnOperation", "", "readfile",
]  # fmt: skip


def check(graph, **more):
    return check_saved_model(saved(graph), folder="/m/1", **more)


def refused(graph, **more):
    with pytest.raises(MalformedError) as raised:
        check(graph, **more)
    return raised.value


def test_a_graph_that_only_computes_is_taken():
    assert list(check(meta_graph()).signatures) == ["serving_default"]


@pytest.mark.parametrize("operation", REACHING)
def test_an_operation_that_reaches_beyond_the_model_is_refused(operation):
    error = refused(meta_graph([node("evil", operation)]))

    assert (error.code, error.got) == ("serving.operation", operation)


def test_it_is_refused_in_a_function_that_nothing_calls():
    assert refused(meta_graph([], [function("__f", [node("r", "ReadFile")])])).got == "ReadFile"


def test_what_the_owner_allows_by_name_is_taken_and_nothing_else():
    graph = meta_graph([node("a", "ReadFile"), node("b", "WriteFile")])

    assert refused(graph, allowed=frozenset({"ReadFile"})).got == "WriteFile"
    check(graph, allowed=frozenset({"ReadFile", "WriteFile"}))


@pytest.mark.parametrize("name", ["ReadFile", "Identity", "_Send", "Addons>Custom", ""])
def test_no_function_takes_an_operations_name(name):
    assert refused(meta_graph([], [function(name, [])])).code == "serving.saved-model"


def test_an_operation_is_not_called_by_way_of_an_attribute():
    graph = meta_graph([node("c", "StatefulPartitionedCall", ["x"], f="ReadFile")])

    assert refused(graph).got == "ReadFile"


def test_nor_by_a_list_or_by_an_attribute_of_an_attribute():
    listed = node("c", "Case")
    listed.attr["branches"].list.func.add(name="ReadFile")
    nested = node("c", "If", then_branch="__f")
    nested.attr["then_branch"].func.attr["g"].func.name = "ReadFile"

    for evil in (listed, nested):
        assert refused(meta_graph([evil], [function("__f", [])])).got == "ReadFile"


def _saving(operation):
    return function("__save", [node("s", operation, ["path"])], ["path"])


@pytest.mark.parametrize("operation", ["SaveV2", "MergeV2Checkpoints"])
def test_the_part_that_saved_the_model_may_be_there_but_not_run(operation):
    call = node("call", "StatefulPartitionedCall", ["x"], f="__save")
    graph = meta_graph([call, node("z", "Identity", ["call"])], [_saving(operation)])
    check(graph)

    asked = wire.MetaGraphDef.FromString(graph.SerializeToString())
    output(asked, "z:0")
    assert refused(asked).got == operation

    init(graph, "call")
    assert refused(graph).got == operation


def test_it_doesnt_run_after_a_control_input_or_in_place_of_another_function():
    call = node("call", "StatefulPartitionedCall", ["x"], f="__save")
    after = meta_graph([call, node("z", "Identity", ["x", "^call"])], [_saving("SaveV2")])
    output(after, "z:0")
    twin = _saving("SaveV2")
    twin.attr["api_implements"].s = b"lstm"

    assert refused(after).got == "SaveV2"
    assert refused(meta_graph([], [twin])).got == "SaveV2"


def test_it_doesnt_run_by_a_function_called_like_an_operation():
    graph = meta_graph([node("z", "__save", ["x"])], [_saving("SaveV2")])
    output(graph, "z:0")

    assert refused(graph).got == "SaveV2"


def test_a_request_leaves_nothing_behind_for_the_next():
    graph = meta_graph([
        node("v", "VarHandleOp"), node("keep", "AssignVariableOp", ["v", "x"]),
        node("z", "Identity", ["x", "^keep"]),
    ])  # fmt: skip
    check(graph)
    output(graph, "z:0")

    assert refused(graph).got == "AssignVariableOp"


def _paths(checked):
    """What every reader of a file is given: operation → the constant's bytes."""
    graph = wire.MetaGraphDef.FromString(checked.meta_graph).graph_def
    bodies = [graph.node, *(each.node_def for each in graph.library.function)]
    found = {}
    for body in bodies:
        nodes = {each.name: each for each in body}
        for each in body:
            position = {"RestoreV2": 0, "InitializeTableFromTextFileV2": 1}.get(each.op)
            if position is not None:
                source = nodes[each.input[position].partition(":")[0]]
                assert source.op == "Const"
                found.setdefault(each.op, []).append(source.attr["value"].tensor)
    return found


def test_variables_are_read_from_the_models_own_files_whatever_the_graph_says():
    graph = meta_graph([node("elsewhere", "Const"), node("restore", "RestoreV2", ["elsewhere"])])
    graph.saver_def.restore_op_name = "restore"

    (path,) = _paths(check(graph))["RestoreV2"]
    assert b"/m/1/variables/variables" in path


def test_a_table_is_read_from_the_models_own_asset_whatever_the_graph_says():
    graph = with_vocabularies("words.txt")
    graph.graph_def.library.function[0].node_def.append(node("secret", "Const"))
    graph.graph_def.library.function[0].node_def[0].input[1] = "secret:output:0"

    (path,) = _paths(check(graph))["InitializeTableFromTextFileV2"]
    assert b"/m/1/assets/words.txt" in path


def test_of_several_assets_each_table_is_read_from_its_own():
    paths = _paths(check(with_vocabularies("a.txt", "b.txt")))["InitializeTableFromTextFileV2"]

    assert [b"a.txt" in paths[0], b"b.txt" in paths[1]] == [True, True]


def test_a_table_that_names_none_of_the_assets_is_refused():
    graph = with_vocabularies("a.txt", "b.txt")
    graph.graph_def.library.function[0].node_def.append(node("secret", "Const"))
    graph.graph_def.library.function[0].node_def[0].input[1] = "secret:output:0"
    none = meta_graph([node("t", "InitializeTableFromTextFileV2", ["x", "x"])])

    for each in (graph, none):
        assert refused(each).code == "serving.saved-model"


@pytest.mark.parametrize(
    "name", ["../x", "a/../../x", "/etc/passwd", "", ".", "a//b", "./a", "a/", "a\0b"]
)
def test_an_asset_lies_below_assets(name):
    graph = meta_graph()
    asset(graph, "x:0", name)

    assert refused(graph).field == "asset_file_def"


@pytest.mark.parametrize("where", ["saved_model.pb", "assets/v.txt", "variables/variables.index"])
def test_no_file_of_a_model_is_a_link_out_of_its_folder(tmp_path, where):
    (tmp_path / "secret").write_bytes(saved(meta_graph()))
    folder = put_saved_model(tmp_path / "m", saved(meta_graph())) / "1"
    read_saved_model(folder)
    link = folder / where
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "secret")

    with pytest.raises(MalformedError, match="a link out of it"):
        read_saved_model(folder)


def test_a_lambda_layer_is_refused_however_deep_unless_allowed(tmp_path):
    layers = {"class_name": "Functional", "config": {"layers": [{"class_name": "Lambda"}]}}
    metadata = wire.KerasMetadata(nodes=[wire.KerasMetadata.Node(metadata=json.dumps(layers))])
    (tmp_path / "keras_metadata.pb").write_bytes(metadata.SerializeToString())

    with pytest.raises(MalformedError, match="Lambda"):
        check_keras_file(tmp_path)
    check_keras_file(tmp_path, allowed=frozenset({"Lambda"}))
