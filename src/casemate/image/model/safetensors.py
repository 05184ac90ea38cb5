"""Headers of safetensors files.

Source: safetensors, "Format"; specs/sealed-model.md, "safetensors".
"""

from __future__ import annotations

import math

from casemate.encoding import decode_json
from casemate.image.model.errors import malformed

_SMALLEST = 8 + len("{}")
MAX_HEADER = 100_000_000
_MAX_DIMENSIONS = 64
_FIELDS = {"dtype", "shape", "data_offsets"}
_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "I8": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32,
    "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def header_size(start: bytes, file_size: int) -> int:
    """The header's size.

    Args:
        start: the file's first eight bytes.
        file_size: in bytes.

    Raises:
        MalformedError: ``model.malformed``.
    """
    if len(start) != 8 or file_size < _SMALLEST:
        raise malformed("size", f"{_SMALLEST} bytes or more", str(file_size))
    size = int.from_bytes(start, "little")
    if not 2 <= size <= min(MAX_HEADER, file_size - 8):
        raise malformed("header size", f"2 to {min(MAX_HEADER, file_size - 8)}", str(size))
    return size


def check_header(header: bytes, data_size: int) -> int:
    """Hold a header against the size of the data behind it.

    Args:
        header: the JSON.
        data_size: in bytes.

    Returns:
        How many tensors there are.

    Raises:
        MalformedError: ``model.malformed``, ``encoding.*``.
    """
    value = decode_json(header, what="safetensors header", max_size=MAX_HEADER)
    if not isinstance(value, dict) or not header.startswith(b"{"):
        raise malformed("header", "an object", type(value).__name__)
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise malformed("__metadata__", "texts", "something else")
    at = 0
    for begin, end, name in sorted(_span(name, tensor) for name, tensor in value.items()):
        if begin != at:
            raise malformed(f"tensor {name[:80]!r}", f"its data at {at}", str(begin))
        at = end
    if at != data_size:
        raise malformed("size", f"{at} bytes of data", str(data_size))
    return len(value)


def _span(name: str, tensor: object) -> tuple[int, int, str]:
    found = tensor if isinstance(tensor, dict) else {}
    bits = _BITS.get(str(found.get("dtype")))
    shape, offsets = _numbers(found.get("shape")), _numbers(found.get("data_offsets"))
    if bits is None or shape is None or offsets is None or set(found) != _FIELDS:
        raise malformed(f"tensor {name[:80]!r}", "dtype, shape and data_offsets", "something else")
    if len(shape) > _MAX_DIMENSIONS or len(offsets) != 2:
        raise malformed(f"tensor {name[:80]!r}", "two offsets, and few dimensions", "others")
    begin, end = offsets
    size = math.prod(shape) * bits
    if end - begin != size // 8 or size % 8:
        raise malformed(f"tensor {name[:80]!r}", f"{size} bits of data", f"{end - begin} bytes")
    return begin, end, name


def _numbers(value: object) -> list[int] | None:
    if not isinstance(value, list):
        return None
    found = [each for each in value if isinstance(each, int) and not isinstance(each, bool)]
    fit = len(found) == len(value) and all(0 <= each < 1 << 63 for each in found)
    return found if fit else None
