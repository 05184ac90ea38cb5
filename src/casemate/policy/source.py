"""Constraints as they stand in a policy document: TOML to constraints, and back.

Source: specs/release-policy.md, "Constraints".
"""

from __future__ import annotations

import datetime
import re
from types import MappingProxyType

from casemate.encoding import MapReader, decode_ed25519_spki, decode_hex
from casemate.errors import MalformedError
from casemate.policy.constraint import (
    Absent,
    AnyOf,
    AtLeast,
    AtLeastEach,
    AtMost,
    Bits,
    Constraint,
    NoneOf,
    Only,
    Unchecked,
    as_int,
    version_of,
)
from casemate.policy.kinds import Field, Kind
from casemate.verify import ClaimValue

_MAX_VALUES = 1024
_MAX_UINT = 2**63 - 1  # what every TOML library can read
_FORMS = (
    "exactly", "any_of", "at_least", "at_most", "only", "none_of", "bits", "absent", "unchecked",
)  # fmt: skip
_NAME = re.compile(r"[a-z]{1,16}\Z", re.ASCII)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}\Z", re.ASCII)
_MAX_TEXT = 256
_MAX_DATA = 1024
_NUMBERS = (Kind.UINT, Kind.WORD)
_ORDERED = (Kind.UINT, Kind.VERSION, Kind.DATE, Kind.SVNS)
_OF_BYTES = (Kind.DIGEST, Kind.SVNS, Kind.FLAGS)


def parse_constraint(field: Field, table: MapReader) -> Constraint:
    """Read the constraint on ``field``.

    Raises:
        MalformedError: it is none of the forms, of the wrong type, or ``unchecked`` where the
            field must be checked.
    """
    where = table.name("")[:-1]
    keys = table.names()
    if len(keys) != 1 or keys[0] not in _FORMS:
        raise MalformedError(
            "policy.constraint",
            f"{where} is not a constraint",
            field=where,
            expected=f"exactly one of: {', '.join(_FORMS)}",
            got=", ".join(keys) or "nothing",
        )
    match keys[0]:
        case "exactly":
            return AnyOf((_value(field, table.take_any("exactly"), where),))
        case "any_of":
            return _any_of(field, table, where)
        case "at_least":
            return _at_least(field, table, where)
        case "at_most":
            _require(field, (Kind.UINT,), "at_most only for unsigned integers", where)
            return AtMost(_uint(table.take("at_most", int), where))
        case "only":
            return Only(_texts(field, table.take_list("only"), where))
        case "none_of":
            denied = _texts(field, table.take_list("none_of"), where)
            if not denied:  # that would be no check at all
                raise _wrong(where, "at least one value", "none")
            return NoneOf(denied)
        case "bits":
            return _bits(field, table.take_map("bits"), where)
        case "absent":
            if not field.optional or table.take("absent", bool) is not True:
                raise _wrong(where, "absent = true, of a claim that evidence may lack", "absent")
            return Absent()
        case _:
            reason = table.take("unchecked", str)
            must_check = field.must_check and field.instead is None
            if must_check or not reason.strip():
                raise _wrong(
                    where,
                    "a check: this field can't go unchecked" if must_check else "a reason",
                    f"unchecked = {reason!r}",
                )
            return Unchecked(reason)


def render_constraint(constraint: Constraint) -> str:
    """The constraint as the content of an inline table."""
    match constraint:
        case AnyOf((value,)):
            return f"exactly = {render_value(value)}"
        case AnyOf(values):
            return f"any_of = [{', '.join(render_value(value) for value in values)}]"
        case AtLeast(minimum):
            return f"at_least = {render_value(minimum)}"
        case AtMost(maximum):
            return f"at_most = {maximum}"
        case AtLeastEach(minima):
            pairs = ", ".join(f"{name} = {minimum}" for name, minimum in minima.items())
            return f"at_least = {{ {pairs} }}"
        case Only(values):
            return f"only = {render_value(values)}"
        case NoneOf(values):
            return f"none_of = {render_value(values)}"
        case Bits(ones, zeros):
            masks = {"ones": ones, "zeros": zeros}
            pairs = ", ".join(
                f"{name} = {render_value(mask)}" for name, mask in masks.items() if as_int(mask)
            )
            return f"bits = {{ {pairs} }}"
        case Absent():
            return "absent = true"
        case Unchecked(reason):
            return f"unchecked = {render_value(reason)}"


def render_value(value: ClaimValue) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case bytes():
            return f'"{value.hex()}"'
        case str():
            escaped = "".join(
                f"\\u{ord(c):04X}" if c in '"\\' or ord(c) < 32 or ord(c) == 127 else c
                for c in value
            )
            return f'"{escaped}"'
        case tuple():
            return f"[{', '.join(render_value(item) for item in value)}]"
        case _:  # levels have a constraint of their own
            raise TypeError(type(value).__name__)


def _any_of(field: Field, table: MapReader, where: str) -> AnyOf:
    values = table.take_list("any_of")
    if not 0 < len(values) <= _MAX_VALUES:
        raise _wrong(where, f"1 to {_MAX_VALUES} values", f"{len(values)}")
    if field.kind is Kind.BOOL:  # both values would be no check at all
        raise _wrong(where, "exactly: a boolean has no other choice", "any_of")
    parsed = tuple(_value(field, value, where) for value in values)
    if len(set(parsed)) != len(parsed):
        raise _wrong(where, "values that differ", "a value twice")
    return AnyOf(parsed)


def _at_least(field: Field, table: MapReader, where: str) -> AtLeast | AtLeastEach:
    if field.kind is Kind.LEVELS:
        return _minima(table.take_map("at_least"), where)
    _require(field, _ORDERED, "at_least only for what has an order", where)
    minimum = _value(field, table.take_any("at_least"), where)
    assert isinstance(minimum, int | str | bytes)
    return AtLeast(minimum)


def _minima(table: MapReader, where: str) -> AtLeastEach:
    minima = {name: table.take(name, int) for name in table.names()}
    if not minima or not all(
        _NAME.match(name) and 0 <= minimum <= _MAX_UINT for name, minimum in minima.items()
    ):
        raise _wrong(where, "a minimum for each of some components", str(minima)[:80])
    return AtLeastEach(MappingProxyType(minima))


def _bits(field: Field, table: MapReader, where: str) -> Bits:
    _require(field, (Kind.FLAGS, Kind.WORD), "bits only for flags", where)
    masks: list[int | bytes] = []
    for name in ("ones", "zeros"):
        mask = table.take_any(name) if name in table.names() else _no_bits(field)
        value = _value(field, mask, f"{where}.{name}")
        assert isinstance(value, int | bytes)
        masks.append(value)
    table.finish()
    ones, zeros = masks
    if not as_int(ones) | as_int(zeros) or as_int(ones) & as_int(zeros):
        raise _wrong(where, "some bits, none of which is to be both", "none, or one that is")
    return Bits(ones, zeros)


def _no_bits(field: Field) -> int | str:
    return "00" * field.lengths[0] if field.kind is Kind.FLAGS else 0


def _texts(field: Field, values: list[object], where: str) -> tuple[str, ...]:
    _require(field, (Kind.TEXTS,), "a list of values for lists alone", where)
    texts = tuple(_text(value, where) for value in values)
    if len(texts) > _MAX_VALUES or len(set(texts)) != len(texts):
        raise _wrong(where, f"at most {_MAX_VALUES} values that differ", str(len(texts)))
    return texts


def _text(value: object, where: str) -> str:
    if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT:
        return value
    raise _wrong(where, f"text of 1 to {_MAX_TEXT} characters", type(value).__name__)


def _uint(value: int, where: str) -> int:
    if 0 <= value <= _MAX_UINT:
        return value
    raise _wrong(where, "0 to 2^63 - 1", str(value)[:20])


def _value(field: Field, value: object, where: str) -> ClaimValue:
    match field.kind, value:
        case kind, str() if kind in _OF_BYTES:
            return _bytes(field, value, where)
        case Kind.DATA, str():
            return _data(value, where)
        case Kind.PUBLIC_KEY, str():
            key = decode_hex(value, field=where)
            decode_ed25519_spki(key, field=where)
            return key
        case Kind.BOOL, bool():
            return value
        case Kind.TEXT, str():
            return _text(value, where)
        case Kind.TEXTS, list():
            return _texts(field, value, where)
        case Kind.VERSION, str() if version_of(value) is not None:
            return value
        case Kind.DATE, str() if _is_day(value):
            return value
        case kind, int() if kind in _NUMBERS and not isinstance(value, bool):
            return _uint(value, where)
    raise _wrong(where, f"a {field.kind}", type(value).__name__)


def _bytes(field: Field, value: str, where: str) -> bytes:
    if len(field.lengths) == 1:
        return decode_hex(value, field=where, length=field.lengths[0])
    decoded = decode_hex(value, field=where)
    if len(decoded) not in field.lengths:
        wanted = " or ".join(map(str, field.lengths))
        raise _wrong(where, f"{wanted} bytes in hex", f"{len(decoded)} bytes")
    return decoded


def _data(value: str, where: str) -> bytes:
    decoded = decode_hex(value, field=where) if value else b""
    if len(decoded) > _MAX_DATA:
        raise _wrong(where, f"at most {_MAX_DATA} bytes in hex", f"{len(decoded)} bytes")
    return decoded


def _is_day(value: str) -> bool:
    if not _DATE.match(value):
        return False
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _require(field: Field, kinds: tuple[Kind, ...], expected: str, where: str) -> None:
    if field.kind not in kinds:
        raise _wrong(where, expected, field.kind)


def _wrong(where: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "policy.constraint",
        f"the constraint {where} can't be right",
        field=where,
        expected=expected,
        got=got,
    )
