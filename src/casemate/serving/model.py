"""A model in ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from casemate.errors import MalformedError
from casemate.serving.dtypes import BFLOAT16_IN_ONNX, BY_ONNX, Array
from casemate.serving.runtime import ort
from casemate.serving.signature import TensorSpec
from casemate.serving.wire import tensorflow_serving_pb2 as wire

# Up to here a model's weights are held twice, for the sake of throughput.
_MAX_TWICE_BYTES: Final = 512 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How models are computed.

    Args:
        intra_op_threads: threads that compute one request; 0: as the load allows. One request
            alone then gets every core, and several at a time get one each.
        inter_op_threads: parts of a model's graph that are computed at the same time; 0 or 1: one.
        allowed_operations: of a SavedModel, beyond those that only compute.
    """

    intra_op_threads: int = 0
    inter_op_threads: int = 0
    allowed_operations: frozenset[str] = frozenset()


class Model:
    """One version of a model, ready to run from any number of threads.

    Args:
        session: ONNX Runtime's, which may use every core for one request.
        narrow: another of the same model that uses one core; None: ``session`` does always.
    """

    def __init__(
        self, session: ort.InferenceSession, *, narrow: ort.InferenceSession | None = None
    ) -> None:
        self._session = session
        self._narrow = narrow
        self._lock = threading.Lock()
        self._running = 0
        self.inputs = {spec.name: spec for spec in map(_spec, session.get_inputs())}
        self.outputs = {spec.name: spec for spec in map(_spec, session.get_outputs())}
        # bfloat16 has no NumPy type, so models with it take the longer way.
        self._has_bfloat16 = any(
            spec.element.number == wire.DT_BFLOAT16
            for spec in (*self.inputs.values(), *self.outputs.values())
        )

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        """Compute the named outputs.

        Raises:
            MalformedError: ``serving.input`` where the model can't take these inputs.
        """
        with self._lock:
            self._running += 1
            session = self._session if self._running == 1 or not self._narrow else self._narrow
        try:
            if self._has_bfloat16:
                return self._run_with_bfloat16(session, feeds, outputs)
            results: list[Array] = session.run(list(outputs), dict(feeds))
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            # Its message may quote the input, and says little that the specification doesn't.
            raise MalformedError(
                "serving.input", "the model can't take these inputs together"
            ) from error
        finally:
            with self._lock:
                self._running -= 1
        return results

    def close(self) -> None:
        """See ``Engine``: ONNX Runtime lets go of a session when nobody holds it."""

    def _run_with_bfloat16(
        self, session: ort.InferenceSession, feeds: Mapping[str, Array], outputs: Sequence[str]
    ) -> list[Array]:
        values = {}
        for name, array in feeds.items():
            if self.inputs[name].element.number == wire.DT_BFLOAT16:
                values[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    np.array(array, copy=True), BFLOAT16_IN_ONNX
                )
            else:
                values[name] = ort.OrtValue.ortvalue_from_numpy(np.array(array, copy=True))
        results = session.run_with_ort_values(list(outputs), values)
        arrays = []
        for name, value in zip(outputs, results, strict=True):
            if self.outputs[name].element.number != wire.DT_BFLOAT16:
                arrays.append(value.numpy())
                continue
            shape = tuple(value.shape())
            content = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
            arrays.append(np.frombuffer(content, "<u2").reshape(shape))
        return arrays


def load_model(path: Path, options: EngineOptions) -> Model:
    """Load a model.

    Libraries of custom operators are never loaded, and ONNX Runtime refuses weights outside the
    version's folder.

    Args:
        path: the model's file.
        options: how it is computed.

    Raises:
        MalformedError: ``serving.model`` where ONNX Runtime can't load it.
    """
    cores = len(os.sched_getaffinity(0))
    session = _session(path, options.intra_op_threads or cores, options.inter_op_threads)
    small = path.stat().st_size <= _MAX_TWICE_BYTES
    twice = not options.intra_op_threads and cores > 1 and small
    narrow = _session(path, 1, options.inter_op_threads) if twice else None
    _give_back_memory()
    return Model(session, narrow=narrow)


def _give_back_memory() -> None:
    """Return what loading took and freed again, for the allocator keeps it: about the weights."""
    with contextlib.suppress(AttributeError):  # only glibc has this call
        ctypes.CDLL(None).malloc_trim(0)


def _session(path: Path, intra_op_threads: int, inter_op_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    if inter_op_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = inter_op_threads
    options.log_severity_level = 3
    # Threads that spin while they wait for work take the cores that TLS and gRPC need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other common type
        raise MalformedError(
            "serving.model",
            f"ONNX Runtime can't load the model: {error}",
            field=str(path),
            expected="an ONNX model whose external data, if any, lies in the same folder",
        ) from error


def _spec(node: ort.NodeArg) -> TensorSpec:
    element = BY_ONNX.get(node.type)
    if element is None:
        raise MalformedError(
            "serving.model",
            f"the model's '{node.name}' has a type that can't be served",
            field=node.name,
            expected=", ".join(sorted(BY_ONNX)),
            got=node.type,
        )
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in node.shape)
    return TensorSpec(name=node.name, element=element, shape=shape)
