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
    """One element type under its three names.

    Args:
        number: TensorFlow's ``DataType``.
        onnx: ONNX Runtime's name.
        dtype: NumPy's. bfloat16 has none: its bits travel as uint16.
        field: the list of a ``TensorProto`` that carries its values.
    """

    number: wire.DataType
    onnx: str
    dtype: np.dtype[Any]
    field: str

    @property
    def name(self) -> str:
        """TensorFlow's name: ``DT_FLOAT``."""
        return wire.DataType.Name(self.number)


def _element(number: wire.DataType, onnx: str, dtype: str, field: str) -> ElementType:
    return ElementType(number=number, onnx=f"tensor({onnx})", dtype=np.dtype(dtype), field=field)


ELEMENT_TYPES: Final = (
    _element(wire.DT_FLOAT, "float", "<f4", "float_val"),
    _element(wire.DT_DOUBLE, "double", "<f8", "double_val"),
    _element(wire.DT_INT32, "int32", "<i4", "int_val"),
    _element(wire.DT_UINT8, "uint8", "|u1", "int_val"),
    _element(wire.DT_INT16, "int16", "<i2", "int_val"),
    _element(wire.DT_INT8, "int8", "|i1", "int_val"),
    _element(wire.DT_STRING, "string", "O", "string_val"),
    _element(wire.DT_INT64, "int64", "<i8", "int64_val"),
    _element(wire.DT_BOOL, "bool", "|b1", "bool_val"),
    _element(wire.DT_BFLOAT16, "bfloat16", "<u2", "half_val"),
    _element(wire.DT_UINT16, "uint16", "<u2", "int_val"),
    _element(wire.DT_HALF, "float16", "<f2", "half_val"),
    _element(wire.DT_UINT32, "uint32", "<u4", "uint32_val"),
    _element(wire.DT_UINT64, "uint64", "<u8", "uint64_val"),
)
BY_NUMBER: Final[Mapping[int, ElementType]] = {each.number: each for each in ELEMENT_TYPES}
BY_ONNX: Final[Mapping[str, ElementType]] = {each.onnx: each for each in ELEMENT_TYPES}
