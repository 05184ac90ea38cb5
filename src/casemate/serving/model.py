"""A model in ONNX Runtime."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np

from casemate.errors import MalformedError
from casemate.serving import memory
from casemate.serving.dtypes import BFLOAT16_IN_ONNX, BY_ONNX, Array
from casemate.serving.runtime import ort
from casemate.serving.signature import TensorSpec
from casemate.serving.source import Identity
from casemate.serving.wire import tensorflow_serving_pb2 as wire

# Up to here a model's weights are held twice, for the sake of throughput.
_MAX_TWICE_BYTES: Final = 512 << 20
# Mostly longer than the threads of the engine wait for each other within a request.
_SPIN_MICROSECONDS: Final = "200"
_LOG: Final = logging.getLogger(__name__)
_Contents: TypeAlias = Mapping[str, Identity]


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


class Narrow:
    """A second session of a model, which uses one core: for requests that overlap.

    It is opened when the first two do, beside them, because it takes as long and as much memory as
    the first session. Until it is there, and where it can't be opened, the first one does for all.

    Args:
        path: the model's file.
        contents: what the file's folder held before the first session was opened. Where it holds
            something else by now, the second would be of another model, and isn't opened.
        inter_op_threads: see ``EngineOptions``.
    """

    def __init__(self, path: Path, contents: _Contents, inter_op_threads: int) -> None:
        self._path = path
        self._contents = contents
        self._inter_op_threads = inter_op_threads
        self._lock = threading.Lock()
        self._begun = False
        self._session: ort.InferenceSession | None = None

    def session(self) -> ort.InferenceSession | None:
        """The session, or None while there is none; the first call begins to open it."""
        with self._lock:
            begun, self._begun = self._begun, True
        if not begun:
            try:
                threading.Thread(target=self._open, name="engine_narrow", daemon=True).start()
            except RuntimeError as error:  # no more threads
                self._say(f"none could be opened: {error}")
        return self._session

    def _open(self) -> None:
        started = time.perf_counter()
        try:
            with memory.loading():
                session = _session(self._path, 1, self._inter_op_threads)
            unchanged = _contents(self._path.parent) == self._contents
        except (MalformedError, OSError) as error:
            self._say(f"none could be opened: {error}")
            return
        if not unchanged:
            self._say("none is opened, for the version's folder has changed since it was loaded")
            return
        self._session = session
        self._say(f"opened in {time.perf_counter() - started:.2f} s", logging.INFO)

    def _say(self, what: str, level: int = logging.WARNING) -> None:
        _LOG.log(level, "%s: a session for requests that overlap: %s", self._path, what)


class Model:
    """One version of a model, ready to run from any number of threads.

    Args:
        session: ONNX Runtime's, which may use every core for one request.
        narrow: another of the same model that uses one core; None: ``session`` does always.
    """

    def __init__(self, session: ort.InferenceSession, *, narrow: Narrow | None = None) -> None:
        self._session = session
        self._narrow = narrow
        self._lock = threading.Lock()
        self._running = 0
        self._overlapped = False
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
            overlaps = self._running > 1
            # Who finds nobody just after others overlapped will hardly stay alone.
            alone = not (overlaps or self._overlapped)
            self._overlapped = overlaps
        try:
            session = self._session
            if self._narrow is not None and not alone:
                session = self._narrow.session() or session
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
    contents = _contents(path.parent)
    small = path.stat().st_size <= _MAX_TWICE_BYTES
    twice = not options.intra_op_threads and cores > 1 and small
    threads = options.intra_op_threads or cores
    with memory.loading():
        session = _session(path, threads, options.inter_op_threads, spins=twice)
    narrow = Narrow(path, contents, options.inter_op_threads) if twice else None
    return Model(session, narrow=narrow)


def _contents(folder: Path) -> _Contents:
    """Every file in a version's folder, for a model may keep its weights in any of them."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 (thousands of files)
            with contextlib.suppress(FileNotFoundError):  # a link to nothing
                status = os.stat(path)  # noqa: PTH116
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _session(
    path: Path, intra_op_threads: int, inter_op_threads: int, *, spins: bool = False
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    if inter_op_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        options.inter_op_num_threads = inter_op_threads
    options.log_severity_level = 3
    # Threads that spin while they wait for work take the cores that TLS, gRPC and other requests
    # need. One request alone needs them itself, from its beginning to its end.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
    if spins:
        options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
        options.add_session_config_entry("session.force_spinning_stop", "1")
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
