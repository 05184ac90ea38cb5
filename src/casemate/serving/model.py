"""A model on disk and in ONNX Runtime."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from casemate.errors import MalformedError, UsageError
from casemate.serving.dtypes import BFLOAT16_IN_ONNX, BY_ONNX, Array, ElementType
from casemate.serving.runtime import ort
from casemate.serving.wire import tensorflow_serving_pb2 as wire

MODEL_FILE: Final = "model.onnx"
_MAX_VERSION_DIGITS: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """An input or output: name, element type, and sizes, None where any will do."""

    name: str
    element: ElementType
    shape: tuple[int | None, ...]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be this one."""
        return len(shape) == len(self.shape) and all(
            mine is None or mine == given for mine, given in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.element.name} [{sizes}]"


class Model:
    """One version of a model, ready to run from any number of threads.

    Args:
        name: the name that requests give.
        version: the number of its folder.
        session: ONNX Runtime's.
    """

    def __init__(self, *, name: str, version: int, session: ort.InferenceSession) -> None:
        self.name = name
        self.version = version
        self._session = session
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
        try:
            if self._has_bfloat16:
                return self._run_with_bfloat16(feeds, outputs)
            results: list[Array] = self._session.run(list(outputs), dict(feeds))
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument as error:
            # Its message may quote the input, and says little that the specification doesn't.
            raise MalformedError(
                "serving.input", "the model can't take these inputs together"
            ) from error
        return results

    def _run_with_bfloat16(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        values = {}
        for name, array in feeds.items():
            if self.inputs[name].element.number == wire.DT_BFLOAT16:
                values[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
                    np.array(array, copy=True), BFLOAT16_IN_ONNX
                )
            else:
                values[name] = ort.OrtValue.ortvalue_from_numpy(np.array(array, copy=True))
        results = self._session.run_with_ort_values(list(outputs), values)
        arrays = []
        for name, value in zip(outputs, results, strict=True):
            if self.outputs[name].element.number != wire.DT_BFLOAT16:
                arrays.append(value.numpy())
                continue
            shape = tuple(value.shape())
            content = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
            arrays.append(np.frombuffer(content, "<u2").reshape(shape))
        return arrays


def find_version(base: Path) -> tuple[int, Path]:
    """The highest version under ``base`` that holds a model: its number and file.

    Raises:
        UsageError: ``serving.model-path`` where there is none.
    """
    versions = {}
    try:
        for folder in base.iterdir():
            text = folder.name
            numeric = text.isascii() and text.isdigit() and len(text) <= _MAX_VERSION_DIGITS
            if numeric and (folder / MODEL_FILE).is_file():
                versions[int(text)] = folder / MODEL_FILE
    except OSError as error:
        raise _no_model(base, error.strerror or "unreadable") from error
    if not versions:
        raise _no_model(base, "no such file")
    return max(versions.items())


def load_model(name: str, base: Path, *, intra_op_threads: int) -> Model:
    """Load the highest version of the model under ``base``.

    Libraries of custom operators are never loaded, and ONNX Runtime refuses weights outside the
    version's folder.

    Args:
        name: the name that requests give.
        base: holds ``N/model.onnx`` for each version N.
        intra_op_threads: threads that compute one request; 0: one a core.

    Raises:
        UsageError: ``serving.model-path``.
        MalformedError: ``serving.model`` where ONNX Runtime can't load it.
    """
    version, path = find_version(base)
    options = ort.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.log_severity_level = 3
    # Threads that spin while they wait for work take the cores that TLS and gRPC need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other common type
        raise MalformedError(
            "serving.model",
            f"ONNX Runtime can't load the model: {error}",
            field=str(path),
            expected="an ONNX model whose external data, if any, lies in the same folder",
        ) from error
    return Model(name=name, version=version, session=session)


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


def _no_model(base: Path, got: str) -> UsageError:
    return UsageError(
        "serving.model-path",
        f"no model under {base}",
        field="model_base_path",
        expected=f"{base}/1/{MODEL_FILE}, or another version number",
        got=got,
        remedy="Name the folder that holds the numbered versions, not a version itself.",
    )
