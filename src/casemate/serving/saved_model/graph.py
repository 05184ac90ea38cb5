"""What a SavedModel would do, found out before TensorFlow sees it.

A model is untrusted input, and TensorFlow's graphs are programs: operations in them read files,
write them, and call code. So the graph is read here, without TensorFlow, by messages of our own,
and refused unless every operation is known to be harmless (ADR 0018). What reads one of the
model's own files gets the file's name from here, as a constant, whatever the graph says.

Source: TensorFlow, ``core/protobuf/saved_model.proto``, ``meta_graph.proto`` and
``core/framework/graph.proto``, ``function.proto`` (meaning of the fields); specs/served-model.md,
"SavedModels".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from google.protobuf.message import DecodeError

from casemate.errors import MalformedError
from casemate.serving.saved_model.operations import (
    ASSET_READERS,
    CHECKPOINT_READERS,
    COMPUTING,
    REMEMBERING,
    SAVING,
)
from casemate.serving.saved_model.wire import saved_model_pb2 as wire
from casemate.serving.wire import tensorflow_serving_pb2 as serving_wire

MAX_SAVED_MODEL_BYTES: Final = 512 << 20
MAX_NODES: Final = 1_000_000
SERVE_TAG: Final = "serve"
CHECKPOINT: Final = "variables/variables"
INIT_SIGNATURE: Final = "__saved_model_init_op"
_ASSET_COLLECTION: Final = "saved_model_assets"
_INIT_COLLECTIONS: Final = ("saved_model_main_op", "legacy_init_op")
_MAX_TRACE: Final = 1000
# The form of an operation's name. A function of that name would hide one, or be hidden by it.
_LIKE_AN_OPERATION: Final = re.compile(r"_?[A-Z][A-Za-z0-9]*|.*>.*", re.ASCII | re.DOTALL)
_FIXED: Final = "casemate_fixed_path"
_MAIN: Final = ""
_PASSING: Final = frozenset({"Identity", "PlaceholderWithDefault", "ReadVariableOp"})
_CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedGraph:
    """A graph that may be loaded.

    Args:
        meta_graph: the MetaGraphDef for TensorFlow: the file's, with file names put in place.
        signatures: the ways to ask, by name.
        restore_op: what reads the variables; empty: nothing does.
        checkpoint_tensor: takes the variables' path while that runs; empty: none.
        init_op: what makes tables ready; empty: nothing.
        assets: tensor → path, fed while that runs.
    """

    meta_graph: bytes
    signatures: Mapping[str, wire.SignatureDef]
    restore_op: str
    checkpoint_tensor: str
    init_op: str
    assets: Mapping[str, str]


def check_saved_model(
    content: bytes, *, folder: str, allowed: frozenset[str] = frozenset()
) -> CheckedGraph:
    """Read ``saved_model.pb`` and refuse what isn't known to be harmless.

    Args:
        content: the file.
        folder: the version's folder, for the paths of its files.
        allowed: operations that the server's owner allows by name.

    Raises:
        MalformedError: ``serving.saved-model`` where it isn't one, ``serving.operation`` where it
            has an operation that isn't allowed.

    Does not check: that the files under ``variables/`` and ``assets/`` lie in the folder
    (``files.py`` does), memory and time that the model takes.
    """
    graph = _served(_parsed(content))
    checker = _Graph(graph, allowed)
    checker.check_operations()
    init = _init_op(graph)
    restore = graph.saver_def.restore_op_name
    # TensorFlow Serving's own names for what is no way to ask a model.
    asked = {
        name: signature
        for name, signature in graph.signature_def.items()
        if not name.startswith("__saved_model_")
    }
    if not asked:
        raise malformed("signature_def", "at least one signature", "none")
    checker.check_run([init, restore], "load", SAVING)
    for name, signature in asked.items():
        checker.check_run(_tensors(signature), f"signature {name[:80]!r}", SAVING | REMEMBERING)
    assets = _assets(graph, folder)
    checker.fix_paths(f"{folder}/{CHECKPOINT}", assets)
    return CheckedGraph(
        meta_graph=graph.SerializeToString(),
        signatures=MappingProxyType(asked),
        restore_op=restore,
        checkpoint_tensor=graph.saver_def.filename_tensor_name,
        init_op=init,
        assets=MappingProxyType(assets),
    )


def _parsed(content: bytes) -> wire.SavedModel:
    if len(content) > MAX_SAVED_MODEL_BYTES:
        raise malformed("file", f"at most {MAX_SAVED_MODEL_BYTES} bytes", f"{len(content)}")
    try:
        return wire.SavedModel.FromString(content)
    except DecodeError as error:
        raise malformed("file", "a SavedModel as protocol buffer", "other bytes") from error


def _served(model: wire.SavedModel) -> wire.MetaGraphDef:
    found = [graph for graph in model.meta_graphs if SERVE_TAG in graph.meta_info_def.tags]
    if len(found) != 1:
        raise malformed("meta_graphs", f"one with the tag {SERVE_TAG}", f"{len(found)}")
    return found[0]


def _init_op(graph: wire.MetaGraphDef) -> str:
    names = {
        info.name
        for signature in (graph.signature_def.get(INIT_SIGNATURE),)
        if signature is not None
        for info in signature.outputs.values()
    }
    for key in _INIT_COLLECTIONS:
        if key in graph.collection_def:
            names.update(graph.collection_def[key].node_list.value)
    if len(names) > 1:
        raise malformed("signature_def", "one operation that makes it ready", f"{len(names)}")
    return next(iter(names), "")


def _tensors(signature: wire.SignatureDef) -> list[str]:
    infos = (*signature.inputs.values(), *signature.outputs.values())
    return [info.name for info in infos]


def _assets(graph: wire.MetaGraphDef, folder: str) -> dict[str, str]:
    """Tensor → path of each asset.

    Raises:
        MalformedError: where one lies anywhere but in ``assets/``.
    """
    assets: dict[str, str] = {}
    for asset in _named_assets(graph):
        name, tensor = asset.filename, asset.tensor_info.name
        parts = PurePosixPath(name).parts
        inside = "/".join(parts) == name and not {"", "/", "..", "."} & set(parts) and parts
        if not inside or "\0" in name:
            raise malformed("asset_file_def", "a name below assets/", repr(name)[:80])
        path = f"{folder}/assets/{name}"
        # TensorFlow 1 may list one twice.
        if not tensor or assets.setdefault(tensor, path) != path:
            raise malformed("asset_file_def", "an asset for each tensor", repr(tensor)[:80])
    return assets


def _named_assets(graph: wire.MetaGraphDef) -> list[wire.AssetFileDef]:
    """Those of the field, or of the collection where TensorFlow 1 keeps them."""
    found = list(graph.asset_file_def)
    if found or _ASSET_COLLECTION not in graph.collection_def:
        return found
    try:
        packed = graph.collection_def[_ASSET_COLLECTION].any_list.value
        return [wire.AssetFileDef.FromString(each.value) for each in packed]
    except DecodeError as error:
        raise malformed(_ASSET_COLLECTION, "assets", "other bytes") from error


class _Graph:
    """A graph and its functions, by name; the graph itself is the function without one."""

    def __init__(self, graph: wire.MetaGraphDef, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._graph = graph.graph_def
        library = graph.graph_def.library.function
        self._functions = {each.signature.name: each for each in library}
        if len(self._functions) != len(library):
            raise malformed("library", "each function once", "a name twice")
        for name in self._functions:
            if not name or _LIKE_AN_OPERATION.fullmatch(name):
                raise malformed("library", "functions not named like operations", repr(name)[:80])
        bodies = {name: each.node_def for name, each in self._functions.items()}
        self._bodies = {_MAIN: graph.graph_def.node, **bodies}
        if sum(map(len, self._bodies.values())) > MAX_NODES:
            raise malformed("graph_def", f"at most {MAX_NODES} nodes", "more")
        self._nodes = {scope: _by_name(body, scope) for scope, body in self._bodies.items()}
        # TensorFlow may run one of these in place of another.
        self._twins = [
            name for name, each in self._functions.items() if "api_implements" in each.attr
        ]
        self._index_calls()

    def check_operations(self) -> None:
        """Refuse every operation that isn't known, wherever it is."""
        known = COMPUTING | REMEMBERING | SAVING | CHECKPOINT_READERS.keys() | ASSET_READERS.keys()
        known |= self._allowed | self._functions.keys()
        for scope, body in self._bodies.items():
            for node in body:
                if node.op not in known:
                    raise _refused(node.op, scope, "an operation that isn't known to be harmless")
                for name in _called(node.attr.values()):
                    if name not in self._functions:
                        raise _refused(name, scope, "a call of something that isn't a function")

    def check_run(self, roots: Iterable[str], what: str, refused: frozenset[str]) -> None:
        """Refuse operations that would run, where they may be there but mustn't run."""
        for scope, node in self._reached(roots):
            if node.op in refused - self._allowed:
                doing = "would save something" if node.op in SAVING else "would remember something"
                raise _refused(node.op, scope, f"{what} {doing}")

    def _reached(self, roots: Iterable[str]) -> Iterator[tuple[str, wire.NodeDef]]:
        """Every node that runs for the roots. Of a function that is called, the whole."""
        waiting = [_node_of(root) for root in roots if root]
        seen: set[str] = set()
        functions: list[str] = list(self._twins)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            node = self._nodes[_MAIN].get(name)
            if node is None:
                raise malformed("graph_def", "every node that is named", repr(name)[:80])
            yield _MAIN, node
            waiting.extend(_node_of(each) for each in node.input)
            functions.extend(self._functions_of(node))
        entered: set[str] = set()
        while functions:
            name = functions.pop()
            if name in entered:
                continue
            entered.add(name)
            for node in self._bodies[name]:
                yield name, node
                functions.extend(self._functions_of(node))

    def _functions_of(self, node: wire.NodeDef) -> list[str]:
        called = [node.op] if node.op in self._functions else []
        return [*called, *_called(node.attr.values())]

    def fix_paths(self, checkpoint: str, assets: Mapping[str, str]) -> None:
        """Give every reader of a file its file's name as a constant.

        Which asset a reader means is followed back through the graph. That may go wrong without
        harm: whatever comes of it is one of the model's own assets.
        """
        readers = [
            (scope, node)
            for scope, body in self._bodies.items()
            for node in body
            if node.op in CHECKPOINT_READERS or node.op in ASSET_READERS
        ]
        for count, (scope, node) in enumerate(readers):
            if node.op in CHECKPOINT_READERS:
                position, path = CHECKPOINT_READERS[node.op], checkpoint
            else:
                position = ASSET_READERS[node.op]
                path = self._asset(scope, node, position, assets)
            if position >= len(node.input) or node.input[position].startswith("^"):
                raise malformed(node.op, f"at least {position + 1} inputs", "fewer")
            name = f"{_FIXED}_{count}"
            if name in self._nodes[scope]:
                raise malformed("graph_def", "no node of this name", name)
            self._bodies[scope].append(_constant(name, path))
            node.input[position] = name if scope == _MAIN else f"{name}:output:0"

    def _asset(
        self, scope: str, node: wire.NodeDef, position: int, assets: Mapping[str, str]
    ) -> str:
        if len(assets) == 1:
            return next(iter(assets.values()))
        sources = {_node_of(tensor): path for tensor, path in assets.items()}
        found = self._sources(scope, _input(node, position), sources)
        if len(found) != 1:
            raise malformed(
                f"{node.op} in {scope or 'the graph'}"[:120], "one of the assets", f"{len(found)}"
            )
        return found.pop()

    def _sources(self, scope: str, name: str, assets: Mapping[str, str]) -> set[str]:
        """The assets whose names may come by an input, as far as it can be followed."""
        waiting, seen, found = [(scope, name)], set[tuple[str, str]](), set[str]()
        while waiting and len(seen) < _MAX_TRACE:
            at = waiting.pop()
            if at in seen:
                continue
            seen.add(at)
            inside, name = at
            node = self._nodes[inside].get(name)
            if inside == _MAIN and name in assets:
                found.add(assets[name])
            elif node is None:
                waiting.extend(self._given(inside, name))
            elif node.op == "VarHandleOp":
                waiting.extend((inside, each) for each in self._written[inside].get(name, ()))
            elif node.op in _PASSING:
                waiting.append((inside, _input(node, 0)))
        return found

    def _given(self, scope: str, argument: str) -> list[tuple[str, str]]:
        """What callers of a function give for an argument."""
        if scope == _MAIN:
            return []
        arguments = [each.name for each in self._functions[scope].signature.input_arg]
        if argument not in arguments:
            return []
        position = arguments.index(argument)
        return [(outer, _input(node, position)) for outer, node in self._callers.get(scope, ())]

    def _index_calls(self) -> None:
        """Who calls each function, and what is assigned to each variable."""
        self._callers: dict[str, list[tuple[str, wire.NodeDef]]] = {}
        self._written: dict[str, dict[str, list[str]]] = {scope: {} for scope in self._bodies}
        for scope, body in self._bodies.items():
            for node in body:
                called = node.attr["f"].func.name if node.op in _CALLS else node.op
                if called in self._functions:
                    self._callers.setdefault(called, []).append((scope, node))
                if node.op == "AssignVariableOp":
                    written = self._written[scope].setdefault(_input(node, 0), [])
                    written.append(_input(node, 1))


def _by_name(body: Iterable[wire.NodeDef], scope: str) -> dict[str, wire.NodeDef]:
    nodes: dict[str, wire.NodeDef] = {}
    for node in body:
        if not node.name or node.name in nodes:
            raise malformed(scope[:80] or "graph_def", "each node once", repr(node.name)[:80])
        nodes[node.name] = node
    return nodes


def _called(values: Iterable[wire.AttrValue]) -> list[str]:
    """The functions that attributes name, and those that these are given."""
    found = []
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        named = [*value.list.func, *([value.func] if value.HasField("func") else [])]
        for each in named:
            if each.name:
                found.append(each.name)
            waiting.extend(each.attr.values())
    return found


def _input(node: wire.NodeDef, position: int) -> str:
    if position >= len(node.input) or node.input[position].startswith("^"):
        return ""
    return _node_of(node.input[position])


def _node_of(name: str) -> str:
    """``node:0`` and ``^node`` → ``node``."""
    return name.removeprefix("^").partition(":")[0]


def _constant(name: str, text: str) -> wire.NodeDef:
    string = serving_wire.DT_STRING
    tensor = serving_wire.TensorProto(dtype=string, string_val=[text.encode()])
    tensor.tensor_shape.SetInParent()
    node = wire.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = string
    node.attr["value"].tensor = tensor.SerializeToString()
    return node


def _refused(operation: str, scope: str, message: str) -> MalformedError:
    name = operation[:80]
    return MalformedError(
        "serving.operation",
        f"the SavedModel is refused: {message}",
        field=f"function {scope[:80]}" if scope else "graph_def",
        expected="operations that only compute",
        got=name,
        remedy=f"If you trust the model with that: --allowed_operations={name}",
    )


def malformed(field: str, expected: str, got: str) -> MalformedError:
    """The error for a SavedModel that can't be served."""
    return MalformedError(
        "serving.saved-model",
        "the SavedModel can't be served",
        field=field,
        expected=expected,
        got=got,
    )
