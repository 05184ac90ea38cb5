"""Take typed fields out of a decoded map, and leave none unread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from casemate.errors import MalformedError

_T = TypeVar("_T", bool, int, bytes, str)


class MapReader:
    """Read the fields of a decoded CBOR or TOML map, each once, with its type.

    Args:
        value: what was decoded; must be a map.
        what: what it is, for messages and as a prefix of field names.
    """

    __slots__ = ("_rest", "_what")

    def __init__(self, value: object, *, what: str) -> None:
        if not isinstance(value, Mapping):
            raise self._wrong(what, "a map", value)
        self._rest: dict[str, object] = dict(value)
        self._what = what

    def name(self, field: str) -> str:
        """The full name of ``field`` for messages."""
        return f"{self._what}.{field}"

    def take(self, field: str, kind: type[_T]) -> _T:
        """The value of a required field of type ``kind``.

        Raises:
            MalformedError: ``encoding.field`` where it is missing or of another type.
        """
        value = self.take_optional(field, kind)
        if value is None:
            raise self._wrong(self.name(field), kind.__name__, value)
        return value

    def take_optional(self, field: str, kind: type[_T]) -> _T | None:
        """The value of a field of type ``kind``, or None where the field is absent.

        A field that is there and null is neither: what is absent has one form, or two encodings
        would give the same value.
        """
        if field not in self._rest:
            return None
        value = self._rest.pop(field)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(self.name(field), kind.__name__, value)
        return value

    def take_any(self, field: str) -> object:
        """The value of a required field, whatever its type; the caller checks it."""
        value = self._rest.pop(field, None)
        if value is None:
            raise self._wrong(self.name(field), "a value", None)
        return value

    def take_list(self, field: str) -> list[object]:
        """The elements of a required array."""
        value = self._rest.pop(field, None)
        if not isinstance(value, list | tuple):
            raise self._wrong(self.name(field), "an array", value)
        return list(value)

    def take_map(self, field: str) -> MapReader:
        """A required nested map."""
        return MapReader(self._rest.pop(field, None), what=self.name(field))

    def take_optional_map(self, field: str) -> MapReader | None:
        """A nested map, or None where the field is absent."""
        return self.take_map(field) if field in self._rest else None

    def take_texts(self, field: str) -> tuple[str, ...]:
        """A required array of text strings."""
        values: list[str] = []
        for index, value in enumerate(self.take_list(field)):
            if not isinstance(value, str):
                raise self._wrong(f"{self.name(field)}[{index}]", "str", value)
            values.append(value)
        return tuple(values)

    def names(self) -> tuple[str, ...]:
        """The fields not yet taken."""
        return tuple(self._rest)

    def finish(self) -> None:
        """No field may be left unread.

        Raises:
            MalformedError: ``encoding.unknown-field`` naming those that are.
        """
        if self._rest:
            raise MalformedError(
                "encoding.unknown-field",
                f"unknown fields in {self._what}",
                field=", ".join(map(str, self._rest)),
                expected="only the fields that the specification names",
                got=", ".join(map(str, self._rest)),
                remedy="Remove them, or check their spelling.",
            )

    @staticmethod
    def _wrong(field: str, expected: str, value: object) -> MalformedError:
        got = "nothing" if value is None else type(value).__name__
        return MalformedError(
            "encoding.field",
            f"{field} is missing or has the wrong type",
            field=field,
            expected=expected,
            got=got,
        )
