"""From a version's folder with a SavedModel to something that runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from casemate.errors import UsageError
from casemate.serving.dtypes import BY_NUMBER
from casemate.serving.engine import Loaded
from casemate.serving.model import EngineOptions
from casemate.serving.saved_model.files import check_keras_file, read_saved_model
from casemate.serving.saved_model.graph import CheckedGraph, check_saved_model, malformed
from casemate.serving.saved_model.wire import saved_model_pb2 as wire
from casemate.serving.signature import METHODS, Port, Signature, Signatures, TensorSpec
from casemate.serving.wire.tensorflow_serving_pb2 import DT_STRING

_METHOD_PREFIX: Final = "tensorflow/serving/"
# Source: TensorFlow, ``saved_model/signature_constants.py``.
EXAMPLES_INPUT: Final = "inputs"


def load_saved_model(folder: Path, options: EngineOptions) -> Loaded:
    """Look at a SavedModel, and load it where nothing is wrong with it.

    Args:
        folder: the version's.
        options: how it is computed, and which operations are allowed.

    Raises:
        MalformedError: ``serving.saved-model``, ``serving.operation``; ``serving.model`` where
            TensorFlow can't load it.
        UsageError: ``serving.engine`` where TensorFlow isn't installed.
    """
    content = read_saved_model(folder)
    check_keras_file(folder, allowed=options.allowed_operations)
    checked = check_saved_model(
        content, folder=str(folder.resolve()), allowed=options.allowed_operations
    )
    signatures = read_signatures(checked)
    try:
        from casemate.serving.saved_model.engine import load_graph
    except ModuleNotFoundError as error:
        raise UsageError(
            "serving.engine",
            "serving a SavedModel needs TensorFlow, which isn't installed",
            field=str(folder),
            remedy="Install casemate[tensorflow], or convert the model to ONNX.",
        ) from error
    return Loaded(engine=load_graph(checked, signatures, options), signatures=signatures)


def read_signatures(checked: CheckedGraph) -> Signatures:
    """The ways to ask, as the model server knows them.

    Raises:
        MalformedError: ``serving.saved-model`` where one has a type or method that can't be served.
    """
    return MappingProxyType(
        {name: _signature(name, each) for name, each in sorted(checked.signatures.items())}
    )


def _signature(name: str, found: wire.SignatureDef) -> Signature:
    method = found.method_name.removeprefix(_METHOD_PREFIX)
    if method not in METHODS:
        raise malformed(f"{name[:80]}.method_name", ", ".join(METHODS), found.method_name[:80])
    if not found.inputs or not found.outputs:
        raise malformed(name[:80], "inputs and outputs", "none")
    inputs = _ports(name, found.inputs.items())
    return Signature(
        name=name,
        method=method,
        inputs=inputs,
        outputs=_ports(name, found.outputs.items()),
        serialized=_takes_examples(inputs),
    )


def _takes_examples(inputs: Mapping[str, Port]) -> bool:
    """Whether these are the inputs of classification and regression as TensorFlow has them."""
    if inputs.keys() != {EXAMPLES_INPUT}:
        return False
    spec = inputs[EXAMPLES_INPUT].spec
    return spec.element.number == DT_STRING and (spec.any_rank or len(spec.shape) == 1)


def _ports(signature: str, infos: Iterable[tuple[str, wire.TensorInfo]]) -> Mapping[str, Port]:
    ports = {}
    for alias, info in sorted(infos):
        where = f"{signature[:80]}.{alias[:80]}"
        element = BY_NUMBER.get(info.dtype)
        if element is None:
            raise malformed(where, "an element type that is served", f"type {info.dtype}")
        if not info.name.rpartition(":")[2].isdigit():
            raise malformed(where, "the name of a tensor", repr(info.name)[:80])
        shape = tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim)
        spec, tensor = (
            TensorSpec(
                name=each, element=element, shape=shape, any_rank=info.tensor_shape.unknown_rank
            )
            for each in (alias, info.name)
        )
        ports[alias] = Port(spec=spec, tensor=tensor, any_bytes=True)
    return MappingProxyType(ports)
