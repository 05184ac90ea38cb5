"""Headers of GGUF files.

Source: ggml, "GGUF"; specs/sealed-model.md, "GGUF".
"""

from __future__ import annotations

from casemate.image.model.errors import malformed

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_TENSORS = _MAX_METADATA = 1 << 20
MAX_HEADER = 256 << 20
_MAX_NAME = 65535
_MAX_DIMENSIONS = 8
_MAX_NESTING = 4
_ALIGNMENT = "general.alignment"
_UINT32, _STRING, _ARRAY = 4, 8, 9
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def check_header(data: memoryview, file_size: int) -> int:
    """Read a header, and hold its tensors' places against the file's size.

    Args:
        data: the file, or its first `MAX_HEADER` bytes.
        file_size: in bytes.

    Returns:
        How many tensors there are.

    Raises:
        MalformedError: ``model.malformed``.
    """
    reader = _Reader(data)
    if reader.take(4) != MAGIC:
        raise malformed("magic", "GGUF", "something else")
    version = reader.number(4)
    if version not in _VERSIONS:
        raise malformed("version", "2 or 3, little endian", str(version))
    tensors, entries = reader.number(8), reader.number(8)
    if tensors > _MAX_TENSORS or entries > _MAX_METADATA:
        raise malformed("number of tensors", f"at most {_MAX_TENSORS}", f"{tensors}, {entries}")
    alignment = _alignment(reader, entries)
    starts = {_tensor(reader, alignment) for _ in range(tensors)}
    begin = reader.at + -reader.at % alignment
    if len(starts) != tensors:
        raise malformed("tensors", "each at a place of its own", "two at one")
    if tensors and begin + max(starts) >= file_size:
        raise malformed("size", f"more than {begin + max(starts)} bytes", str(file_size))
    return tensors


def _alignment(reader: _Reader, entries: int) -> int:
    """The metadata are read past; one of them says how data is aligned."""
    alignment = 32
    keys: set[bytes] = set()
    for _ in range(entries):
        key, kind = reader.text(), reader.number(4)
        if key in keys:
            raise malformed("metadata", "each key once", ascii(key[:80]))
        keys.add(key)
        if key == _ALIGNMENT.encode():
            alignment = reader.number(4) if kind == _UINT32 else 0
            if alignment.bit_count() != 1 or alignment > 1 << 20:
                raise malformed(_ALIGNMENT, "a power of two", str(alignment))
        else:
            reader.skip_value(kind, 0)
    return alignment


def _tensor(reader: _Reader, alignment: int) -> int:
    reader.text()
    dimensions = reader.number(4)
    if dimensions > _MAX_DIMENSIONS:
        raise malformed("dimensions", f"at most {_MAX_DIMENSIONS}", str(dimensions))
    reader.take(8 * dimensions + 4)
    offset = reader.number(8)
    if offset % alignment:
        raise malformed("offset", f"a multiple of {alignment}", str(offset))
    return offset


class _Reader:
    def __init__(self, data: memoryview) -> None:
        self._data, self.at = data, 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self._data):
            raise malformed("header", f"{size} more bytes", f"{len(self._data) - self.at}")
        piece = bytes(self._data[self.at : end])
        self.at = end
        return piece

    def skip(self, size: int) -> None:
        if size > len(self._data) - self.at:
            raise malformed("header", f"{size} more bytes", f"{len(self._data) - self.at}")
        self.at += size

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> bytes:
        size = self.number(8)
        if size > _MAX_NAME:
            raise malformed("name", f"at most {_MAX_NAME} bytes", str(size))
        return self.take(size)

    def skip_value(self, kind: int, depth: int) -> None:
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.skip(self.number(8))
        elif kind == _ARRAY and depth < _MAX_NESTING:
            inner, count = self.number(4), self.number(8)
            if inner in _SIZES:
                self.skip(_SIZES[inner] * count)
                return
            if count * 8 > len(self._data) - self.at:  # each has at least its own length
                raise malformed("array", "elements that are there", str(count))
            for _ in range(count):
                self.skip_value(inner, depth + 1)
        else:
            raise malformed("type", "a type of metadata", str(kind))
