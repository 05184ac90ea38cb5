"""Small model files of every kind, made by hand."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence


def safetensors(
    header: Mapping[str, object] | None = None, data: bytes = bytes(8), raw: bytes | None = None
) -> bytes:
    """A file with one tensor of two 32-bit numbers, unless told otherwise."""
    if header is None:
        header = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode() if raw is None else raw
    return struct.pack("<Q", len(text)) + text + data


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf(
    *,
    version: int = 3,
    metadata: Sequence[tuple[str, int, bytes]] = (("general.name", 8, _string("x")),),
    tensors: Sequence[tuple[str, Sequence[int], int, int]] = (("a", [4], 0, 0), ("b", [4], 0, 32)),
    data: bytes = bytes(64),
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A file with two tensors: name, shape, type, offset."""
    many = counts or (len(tensors), len(metadata))
    head = b"GGUF" + struct.pack("<IQQ", version, *many)
    for key, kind, value in metadata:
        head += _string(key) + struct.pack("<I", kind) + value
    for name, shape, kind, offset in tensors:
        head += _string(name) + struct.pack("<I", len(shape))
        head += b"".join(struct.pack("<Q", each) for each in shape)
        head += struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + data


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that has a length."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def onnx_with_data(within: Sequence[int] = (5,), **entries: str) -> bytes:
    """A model one of whose tensors has its data elsewhere.

    Args:
        within: the fields that lead from the graph to the tensor.
        entries: of the external data.
    """
    tensor = b"".join(
        message(13, message(1, key.encode()) + message(2, value.encode()))
        for key, value in entries.items()
    )
    for number in reversed(within):
        tensor = message(number, tensor)
    return b"\x08\x09" + message(7, tensor)
