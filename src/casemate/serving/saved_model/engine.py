"""A model in TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from casemate.errors import MalformedError
from casemate.serving.dtypes import Array
from casemate.serving.model import EngineOptions
from casemate.serving.saved_model.graph import CheckedGraph
from casemate.serving.saved_model.runtime import tf
from casemate.serving.signature import Signature, Signatures, TensorSpec
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_INPUT_ERRORS = (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One signature, ready to run.

    Args:
        inputs, outputs: the graph's own tensors, in the call's order.
        run: takes the inputs and gives the outputs.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    run: Callable[..., Sequence[object]]


class SavedModel:
    """One version of a model; see ``Engine``.

    A session keeps what it has prepared for each set of outputs, for ever. So there is one for
    each signature, with all of its outputs, and clients can't make more.

    Args:
        session: holds the graph, its variables and tables.
        signatures: the ways to ask.
    """

    def __init__(self, session: tf.compat.v1.Session, signatures: Signatures) -> None:
        self._session = session
        self._calls = [_prepare(session, each) for each in signatures.values()]
        self.inputs = {name: spec for call in self._calls for name, spec in call.inputs.items()}
        self.outputs = {name: spec for call in self._calls for name, spec in call.outputs.items()}

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """See ``Engine``."""
        call = next(
            each
            for each in self._calls
            if each.inputs.keys() == feeds.keys() and each.outputs.keys() >= set(outputs)
        )
        values = [_given(feeds[name], spec) for name, spec in call.inputs.items()]
        try:
            results = call.run(*values)
        except _INPUT_ERRORS as error:
            # Its message may quote the input, and says little that the specification doesn't.
            raise MalformedError(
                "serving.input", "the model can't take these inputs together"
            ) from error
        named = dict(zip(call.outputs, results, strict=True))
        return [_made(named[name], self.outputs[name]) for name in outputs]

    def close(self) -> None:
        """See ``Engine``."""
        self._session.close()


def load_graph(checked: CheckedGraph, signatures: Signatures, options: EngineOptions) -> SavedModel:
    """Load a graph that was looked at, restore its variables and make its tables.

    Raises:
        MalformedError: ``serving.model`` where TensorFlow can't.
    """
    config = tf.compat.v1.ConfigProto(
        allow_soft_placement=True,
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
    )
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=config)
    try:
        with graph.as_default():
            meta = tf.compat.v1.MetaGraphDef.FromString(checked.meta_graph)
            tf.import_graph_def(meta.graph_def, name="")
        _make_ready(session, checked)
        return SavedModel(session, signatures)
    except Exception as error:  # a stranger's graph: TensorFlow's errors have no common type
        session.close()
        raise MalformedError(
            "serving.model",
            f"TensorFlow can't load the model: {type(error).__name__}: {str(error)[:500]}",
            expected=f"a SavedModel that TensorFlow {tf.__version__} can load",
        ) from error


def _make_ready(session: tf.compat.v1.Session, checked: CheckedGraph) -> None:
    """What TensorFlow Serving does, too: variables first, then tables from assets."""
    assets = {session.graph.get_tensor_by_name(name): path for name, path in checked.assets.items()}
    if checked.restore_op:
        feeds = dict(assets)
        if checked.checkpoint_tensor:
            # Where it is read from stands in the graph already; the node must have some value.
            feeds[session.graph.get_tensor_by_name(checked.checkpoint_tensor)] = ""
        session.run(session.graph.get_operation_by_name(checked.restore_op), feeds)
    if checked.init_op:
        name = checked.init_op.partition(":")[0]
        session.run(session.graph.get_operation_by_name(name), assets)


def _prepare(session: tf.compat.v1.Session, signature: Signature) -> _Call:
    inputs = {port.tensor.name: port.tensor for port in signature.inputs.values()}
    outputs = {port.tensor.name: port.tensor for port in signature.outputs.values()}
    find = session.graph.get_tensor_by_name
    run = session.make_callable([find(name) for name in outputs], [find(name) for name in inputs])
    return _Call(inputs=inputs, outputs=outputs, run=run)


def _given(array: Array, spec: TensorSpec) -> Array:
    if spec.element.number == wire.DT_BFLOAT16:
        return array.view(tf.bfloat16.as_numpy_dtype)
    return array


def _made(value: object, spec: TensorSpec) -> Array:
    if spec.element.number == wire.DT_BFLOAT16:
        return np.asarray(value).view(spec.element.dtype)
    # A string alone comes as bytes, a number alone as NumPy's.
    return np.asarray(value, spec.element.dtype)
