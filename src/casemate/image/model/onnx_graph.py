"""ONNX files: which other files their graph names as its data, and which operations it has.

The protocol buffers are walked, not built: a graph of two gigabytes takes no memory.

Source: onnx.proto3 (ModelProto, GraphProto, NodeProto, TensorProto), "External Data".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from casemate.image.model.errors import malformed

_MAX_DEPTH = 64
_MAX_FIELDS = 50_000_000
_MAX_TEXT = 4096
# Messages that may hold a tensor, by the field in which they are: (message, field) → message.
_WITHIN = {
    ("model", 7): "graph", ("model", 25): "function", ("graph", 1): "node", ("graph", 5): "tensor",
    ("graph", 15): "sparse", ("function", 7): "node", ("node", 5): "attribute",
    ("attribute", 5): "tensor", ("attribute", 6): "graph", ("attribute", 10): "tensor",
    ("attribute", 11): "graph", ("attribute", 22): "sparse", ("attribute", 23): "sparse",
    ("sparse", 1): "tensor", ("sparse", 2): "tensor", ("tensor", 13): "external",
    ("function", 11): "attribute", ("model", 20): "training", ("training", 1): "graph",
    ("training", 2): "graph",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalData:
    """Data of a tensor in another file.

    Args:
        location: the file, as the graph names it.
        offset: in it, in bytes.
        length: in bytes; None for the rest.
    """

    location: str
    offset: int
    length: int | None


def external_data(model: memoryview) -> tuple[ExternalData, ...]:
    """Every file that a model names as data of its tensors.

    Args:
        model: the file.

    Raises:
        MalformedError: ``model.malformed``.
    """
    return tuple(_Walk().message(model, "model", 0))


class _Walk:
    def __init__(self) -> None:
        self._left = _MAX_FIELDS

    def message(self, data: memoryview, kind: str, depth: int) -> Iterator[ExternalData]:
        if depth > _MAX_DEPTH:
            raise malformed("graph", f"at most {_MAX_DEPTH} messages deep", "more")
        entries: dict[str, str] = {}
        for number, value in self._fields(data):
            inner = _WITHIN.get((kind, number))
            if inner is None or value is None:
                continue
            if inner == "external":
                entries.update([self._entry(value)])
            else:
                yield from self.message(value, inner, depth + 1)
        if entries:
            yield _external(entries)

    def _entry(self, data: memoryview) -> tuple[str, str]:
        texts = {1: "", 2: ""}
        for number, value in self._fields(data):
            if value is None or number not in texts or len(value) > _MAX_TEXT:
                raise malformed("external data", "short texts", "something else")
            try:
                texts[number] = bytes(value).decode()
            except UnicodeDecodeError as error:
                raise malformed("external data", "text in UTF-8", "other bytes") from error
        return texts[1], texts[2]

    def _fields(self, data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
        """Each field's number, and its bytes if it has a length."""
        at = 0
        while at < len(data):
            self._left -= 1
            if self._left < 0:
                raise malformed("graph", f"at most {_MAX_FIELDS} fields", "more")
            tag, at = _varint(data, at)
            number, wire = tag >> 3, tag & 7
            size = {0: None, 1: 8, 2: -1, 5: 4}.get(wire, -2)
            if size == -2 or not number:
                raise malformed("field", "a protocol buffer", f"wire type {wire}")
            if size is None:
                _, at = _varint(data, at)
                yield number, None
                continue
            if size == -1:
                size, at = _varint(data, at)
            if size > len(data) - at:
                raise malformed("field", f"{size} bytes", f"{len(data) - at}")
            yield number, data[at : at + size] if wire == 2 else None
            at += size


def _external(entries: dict[str, str]) -> ExternalData:
    numbers = {}
    for name in ("offset", "length"):
        text = entries.get(name, "")
        if text and not (text.isascii() and text.isdigit() and len(text) < 20):
            raise malformed(f"external data's {name}", "a number", ascii(text)[:40])
        numbers[name] = int(text) if text else None
    return ExternalData(
        location=entries.get("location", ""),
        offset=numbers["offset"] or 0,
        length=numbers["length"],
    )


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
    raise malformed("number", "a number of at most 64 bits", "more, or the end")
