"""SavedModels made by hand, of our own messages: no TensorFlow needed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from casemate.serving.saved_model.wire import saved_model_pb2 as wire

FLOAT = 1
STRING = 7


def node(name: str, op: str, inputs: Sequence[str] = (), **functions: str) -> wire.NodeDef:
    """A node; ``functions`` are attributes that name functions."""
    made = wire.NodeDef(name=name, op=op, input=inputs)
    for attribute, function in functions.items():
        made.attr[attribute].func.name = function
    return made


def function(
    name: str, nodes: Iterable[wire.NodeDef], arguments: Sequence[str] = ()
) -> wire.FunctionDef:
    made = wire.FunctionDef(node_def=nodes)
    made.signature.name = name
    for argument in arguments:
        made.signature.input_arg.add(name=argument)
    return made


def meta_graph(
    nodes: Iterable[wire.NodeDef] = (), functions: Iterable[wire.FunctionDef] = ()
) -> wire.MetaGraphDef:
    """A graph with the signature ``serving_default``: x → y, by Identity, and ``nodes`` beside."""
    graph = wire.MetaGraphDef()
    graph.meta_info_def.tags.append("serve")
    graph.graph_def.node.extend([node("x", "Placeholder"), node("y", "Identity", ["x"]), *nodes])
    graph.graph_def.library.function.extend(functions)
    signature = graph.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    for infos, name in ((signature.inputs, "x"), (signature.outputs, "y")):
        infos[name].name = f"{name}:0"
        infos[name].dtype = FLOAT
        infos[name].tensor_shape.dim.add(size=-1)
    return graph


def saved(graph: wire.MetaGraphDef) -> bytes:
    """The content of ``saved_model.pb``."""
    model = wire.SavedModel(saved_model_schema_version=1, meta_graphs=[graph])
    return model.SerializeToString()


def output(graph: wire.MetaGraphDef, tensor: str) -> None:
    """Make another tensor the answer."""
    graph.signature_def["serving_default"].outputs["y"].name = tensor


def asset(graph: wire.MetaGraphDef, tensor: str, filename: str) -> None:
    made = graph.asset_file_def.add(filename=filename)
    made.tensor_info.name = tensor


def init(graph: wire.MetaGraphDef, operation: str) -> None:
    """Name what makes the model ready."""
    graph.collection_def["saved_model_main_op"].node_list.value.append(operation)


def with_vocabularies(*names: str) -> wire.MetaGraphDef:
    """A graph that reads a table from each file, as TensorFlow writes it.

    The path goes through a variable, and from there as an argument into a function.
    """
    graph, ready = meta_graph(), []
    for position, name in enumerate(names):
        tensor, handle, read, call = (f"{each}_{position}" for each in "ahrc")
        graph.graph_def.node.extend([
            node(tensor, "Placeholder"), node(handle, "VarHandleOp"),
            node(f"{handle}/Assign", "AssignVariableOp", [handle, tensor]),
            node(f"t_{position}", "HashTableV2"),
            node(read, "ReadVariableOp", [handle, f"^{handle}/Assign"]),
            node(call, "StatefulPartitionedCall", [read, f"t_{position}"], f=f"__init_{position}"),
        ])  # fmt: skip
        body = [node("load", "InitializeTableFromTextFileV2", ["table", "path"])]
        graph.graph_def.library.function.append(
            function(f"__init_{position}", body, ["path", "table"])
        )
        asset(graph, f"{tensor}:0", name)
        ready.append(f"^{call}")
    graph.graph_def.node.append(node("ready", "NoOp", ready))
    init(graph, "ready")
    return graph


def put_saved_model(base: Path, content: bytes, *, version: int = 1) -> Path:
    folder = base / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "saved_model.pb").write_bytes(content)
    return base
