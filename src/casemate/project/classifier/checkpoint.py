"""Read the weights in a PyTorch checkpoint without running anything in it.

A checkpoint is a series of pickles, and a pickle is a program: unpickling one hands the machine
to whoever wrote it. So nothing is unpickled here. ``pickle_values`` interprets the few
instructions that a table of weights needs, builds plain values, and imports and calls nothing.

Layout (PyTorch's format before 1.6): pickles of a magic number, the protocol version, a
description of the writing machine, the table of tensors, and the list of storage keys; then, in
the order of that list, each storage's element count (int64) and its raw elements, all
little-endian.

Does not check: where the checkpoint comes from. Compare its digest first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from casemate.errors import MalformedError
from casemate.project.classifier.pickle_values import (
    Storage,
    Tensor,
    Value,
    malformed,
    read_pickle,
)

Weights: TypeAlias = Mapping[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]]
_Elements: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int64]

_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_MAX_BYTES: Final = 1 << 30
_MAX_DIMENSIONS: Final = 8
_DTYPES: Final[Mapping[str, np.dtype[np.float32] | np.dtype[np.int64]]] = {
    "FloatStorage": np.dtype(np.float32),
    "LongStorage": np.dtype(np.int64),
}


def read_checkpoint(data: bytes) -> Weights:
    """Read the tensors of a checkpoint, as views of ``data``.

    Args:
        data: the whole file, at most 1 GiB.

    Returns:
        Name → read-only array, float32 or int64.

    Raises:
        MalformedError: ``checkpoint.*`` where anything but a table of dense float32 and
            int64 tensors is found.
    """
    if len(data) > _MAX_BYTES:
        raise malformed("size", "the checkpoint is too large", f"at most {_MAX_BYTES}", len(data))
    position = _read_preamble(data)
    table, position = read_pickle(data, position)
    keys, position = read_pickle(data, position)
    if not isinstance(table, dict) or not isinstance(keys, list):
        raise malformed("table", "no table of tensors with a list of storages", "dict, list", None)
    tensors = {_name(name): _tensor(name, value) for name, value in table.items()}
    storages = _read_storages(data, position, keys, tensors)
    return {name: _view(name, tensor, storages) for name, tensor in tensors.items()}


def _read_preamble(data: bytes) -> int:
    magic, position = read_pickle(data, 0)
    if magic != _MAGIC:
        raise malformed(
            "magic", "not a PyTorch checkpoint in the format before 1.6", hex(_MAGIC), None
        )
    protocol, position = read_pickle(data, position)
    if protocol != _PROTOCOL:
        raise malformed("protocol", "another checkpoint protocol", _PROTOCOL, None)
    machine, position = read_pickle(data, position)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise malformed("machine", "not written on a little-endian machine", "little_endian", None)
    return position


def _name(name: Value) -> str:
    if not isinstance(name, str):
        raise malformed("table", "a tensor without a name", "str", type(name).__name__)
    return name


def _tensor(name: Value, value: Value) -> Tensor:
    if not isinstance(value, Tensor):
        raise malformed("table", f"'{name}' isn't a tensor", "a tensor", type(value).__name__)
    return value


def _read_storages(
    data: bytes, position: int, keys: list[Value], tensors: Mapping[str, Tensor]
) -> dict[str, _Elements]:
    """Cut the storages out of the rest of the file: in order, bounded, nothing left over."""
    declared: dict[str, Storage] = {}
    for tensor in tensors.values():
        if declared.setdefault(tensor.storage.key, tensor.storage) != tensor.storage:
            raise malformed("storage", "one key names two storages", "one", tensor.storage.key)
    if not all(isinstance(key, str) for key in keys) or sorted(map(str, keys)) != sorted(declared):
        raise malformed(
            "storage",
            "the list of storages isn't that of the table",
            f"{len(declared)} distinct keys",
            f"{len(keys)} keys",
        )
    storages: dict[str, _Elements] = {}
    for key in map(str, keys):
        storage = declared[key]
        dtype = _DTYPES[storage.kind]
        if len(data) - position < 8:
            raise malformed("storage", "the checkpoint is cut short", "8 bytes", None)
        (count,) = struct.unpack_from("<q", data, position)
        position += 8
        if count != storage.count:
            raise malformed("storage", "a storage of another size", storage.count, count)
        if count * dtype.itemsize > len(data) - position:
            raise malformed(
                "storage", "the checkpoint is cut short", f"{count} elements", len(data) - position
            )
        elements = np.frombuffer(data, dtype=dtype, count=count, offset=position)
        storages[key] = cast("_Elements", elements)
        position += count * dtype.itemsize
    if position != len(data):
        raise malformed("size", "bytes after the last storage", position, len(data))
    return storages


def _view(name: str, tensor: Tensor, storages: Mapping[str, _Elements]) -> _Elements:
    shape = tensor.shape
    if len(shape) > _MAX_DIMENSIONS or min((*shape, 0)) < 0 or tensor.offset < 0:
        raise malformed("shape", f"'{name}' has an impossible shape", "sizes from 0", str(shape))
    if len(tensor.strides) != len(shape):
        raise malformed("strides", f"'{name}' has too few or many", len(shape), None)
    # Weights carried over from other frameworks keep their order of dimensions in memory.
    order = sorted(range(len(shape)), key=lambda at: (-tensor.strides[at], shape[at] == 1))
    step = 1
    for at in reversed(order):
        if shape[at] != 1 and tensor.strides[at] != step:
            raise malformed("strides", f"'{name}' isn't dense", None, str(tensor.strides))
        step *= shape[at]
    elements = storages[tensor.storage.key]
    count = math.prod(shape)
    if tensor.offset + count > elements.size:
        raise MalformedError(
            "checkpoint.shape",
            f"'{name}' reaches past its storage",
            field="shape",
            expected=f"at most {elements.size} elements",
            got=f"{count} from {tensor.offset}",
        )
    dense = elements[tensor.offset : tensor.offset + count].reshape([shape[at] for at in order])
    return dense.transpose([order.index(at) for at in range(len(shape))])
