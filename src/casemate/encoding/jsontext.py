"""JSON without the leniency of ``json``: no duplicate keys, no NaN, bounded."""

from __future__ import annotations

import json
from typing import NoReturn, TypeAlias

from casemate.errors import MalformedError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


def decode_json(data: bytes, *, what: str, max_size: int) -> JsonValue:
    """Decode one JSON text in UTF-8.

    Raises:
        MalformedError: ``encoding.json`` where it isn't JSON, has a duplicate key, a number that
            JSON doesn't know, or half a surrogate pair; ``encoding.too-large`` beyond ``max_size``
            bytes.
    """
    if len(data) > max_size:
        raise MalformedError(
            "encoding.too-large",
            f"the {what} is too large",
            field=what,
            expected=f"at most {max_size} bytes",
            got=f"{len(data)} bytes",
        )
    try:
        value: JsonValue = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
        if b"\\u" in data:  # an escape may name half a character, which no text can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedError(
            "encoding.json",
            f"the {what} is not strict JSON",
            field=what,
            expected="JSON (RFC 8259) in UTF-8 without duplicate keys",
            got=str(error),
        ) from error
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a duplicate key")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"the constant {name}")
