"""The element types that a request, NumPy and ONNX Runtime have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from casemate.serving.wire import tensorflow_serving_pb2 as wire

Array: TypeAlias = npt.NDArray[Any]
BFLOAT16_IN_ONNX: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementType:
    """One element type under its names.

    Args:
        number: TensorFlow's ``DataType``.
        onnx: ONNX Runtime's name.
        dtype: NumPy's. bfloat16 has none: its bits travel as uint16.
        field: the list of a ``TensorProto`` that carries its values.
        open_name: the Open Inference Protocol's name.
        open_field: the list of an ``InferTensorContents`` that carries its values; empty: none.
    """

    number: wire.DataType
    onnx: str
    dtype: np.dtype[Any]
    field: str
    open_name: str
    open_field: str

    @property
    def name(self) -> str:
        """TensorFlow's name: ``DT_FLOAT``."""
        return wire.DataType.Name(self.number)


def _element(
    number: wire.DataType, onnx: str, dtype: str, field: str, open_name: str, open_field: str
) -> ElementType:
    return ElementType(
        number=number,
        onnx=f"tensor({onnx})",
        dtype=np.dtype(dtype),
        field=field,
        open_name=open_name,
        open_field=open_field,
    )


ELEMENT_TYPES: Final = (
    _element(wire.DT_FLOAT, "float", "<f4", "float_val", "FP32", "fp32_contents"),
    _element(wire.DT_DOUBLE, "double", "<f8", "double_val", "FP64", "fp64_contents"),
    _element(wire.DT_INT32, "int32", "<i4", "int_val", "INT32", "int_contents"),
    _element(wire.DT_UINT8, "uint8", "|u1", "int_val", "UINT8", "uint_contents"),
    _element(wire.DT_INT16, "int16", "<i2", "int_val", "INT16", "int_contents"),
    _element(wire.DT_INT8, "int8", "|i1", "int_val", "INT8", "int_contents"),
    _element(wire.DT_STRING, "string", "O", "string_val", "BYTES", "bytes_contents"),
    _element(wire.DT_INT64, "int64", "<i8", "int64_val", "INT64", "int64_contents"),
    _element(wire.DT_BOOL, "bool", "|b1", "bool_val", "BOOL", "bool_contents"),
    _element(wire.DT_BFLOAT16, "bfloat16", "<u2", "half_val", "BF16", ""),
    _element(wire.DT_UINT16, "uint16", "<u2", "int_val", "UINT16", "uint_contents"),
    _element(wire.DT_HALF, "float16", "<f2", "half_val", "FP16", ""),
    _element(wire.DT_UINT32, "uint32", "<u4", "uint32_val", "UINT32", "uint_contents"),
    _element(wire.DT_UINT64, "uint64", "<u8", "uint64_val", "UINT64", "uint64_contents"),
)
BY_NUMBER: Final[Mapping[int, ElementType]] = {each.number: each for each in ELEMENT_TYPES}
BY_ONNX: Final[Mapping[str, ElementType]] = {each.onnx: each for each in ELEMENT_TYPES}
