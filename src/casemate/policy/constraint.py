"""Typed constraints: exactly, any of, at least, or unchecked for a stated reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from casemate.encoding import MapReader, decode_ed25519_spki, decode_hex
from casemate.errors import MalformedError
from casemate.policy.fields import Field, Kind
from casemate.types import sha256
from casemate.verify import ClaimValue

_MAX_VALUES = 1024
_MAX_UINT = 2**63 - 1  # what every TOML library can read


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The claim must equal one of these; a single one is what ``exactly`` means."""

    values: tuple[ClaimValue, ...]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The claim, an unsigned integer, must be this or more."""

    minimum: int


@dataclass(frozen=True, slots=True)
class AtLeastEach:
    """Each named component of the claim must be at its minimum or more."""

    minima: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Only:
    """The claim is a list, and everything in it must be one of these."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unchecked:
    """The claim isn't looked at, and this is why."""

    reason: str


Constraint: TypeAlias = AnyOf | AtLeast | AtLeastEach | Only | Unchecked
_FORMS = ("exactly", "any_of", "at_least", "only", "unchecked")
_NAME = re.compile(r"[a-z]{1,16}\Z", re.ASCII)
_MAX_TEXT = 256


def parse_constraint(field: Field, table: MapReader) -> Constraint:
    """Read the constraint on ``field``.

    Raises:
        MalformedError: it is none of the forms, of the wrong type, or ``unchecked`` where the
            field must be checked.

    Source: specs/release-policy.md, "Constraints".
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
            values = table.take_list("any_of")
            if not 0 < len(values) <= _MAX_VALUES:
                raise _wrong(where, f"1 to {_MAX_VALUES} values", f"{len(values)}")
            if field.kind is Kind.BOOL:  # both values would be no check at all
                raise _wrong(where, "exactly: a boolean has no other choice", "any_of")
            parsed = tuple(_value(field, value, where) for value in values)
            if len(set(parsed)) != len(parsed):
                raise _wrong(where, "values that differ", "a value twice")
            return AnyOf(parsed)
        case "at_least" if field.kind is Kind.LEVELS:
            return _minima(table.take_map("at_least"), where)
        case "only":
            if field.kind is not Kind.TEXTS:
                raise _wrong(where, "only for lists alone", field.kind)
            allowed = tuple(_text(value, where) for value in table.take_list("only"))
            if len(allowed) > _MAX_VALUES or len(set(allowed)) != len(allowed):
                raise _wrong(where, f"at most {_MAX_VALUES} values that differ", str(len(allowed)))
            return Only(allowed)
        case "at_least":
            minimum = table.take("at_least", int)
            if field.kind is not Kind.UINT or not 0 <= minimum <= _MAX_UINT:
                raise _wrong(where, "at_least only for unsigned integers", field.kind)
            return AtLeast(minimum)
        case _:
            reason = table.take("unchecked", str)
            if field.must_check or not reason.strip():
                raise _wrong(
                    where,
                    "a check: this field can't go unchecked" if field.must_check else "a reason",
                    f"unchecked = {reason!r}",
                )
            return Unchecked(reason)


def default_constraint(field: Field) -> Constraint | None:
    """What holds where a policy says nothing about ``field``, if that is allowed."""
    return AnyOf((field.default,)) if field.default is not None else None


def _minima(table: MapReader, where: str) -> AtLeastEach:
    minima = {name: table.take(name, int) for name in table.names()}
    if not minima or not all(
        _NAME.match(name) and 0 <= minimum <= _MAX_UINT for name, minimum in minima.items()
    ):
        raise _wrong(where, "a minimum for each of some components", str(minima)[:80])
    return AtLeastEach(MappingProxyType(minima))


def _text(value: object, where: str) -> str:
    if isinstance(value, str) and 0 < len(value) <= _MAX_TEXT:
        return value
    raise _wrong(where, f"text of 1 to {_MAX_TEXT} characters", type(value).__name__)


def describe(field: Field, constraint: Constraint) -> str:
    """The constraint in words, for people."""
    match constraint:
        case AnyOf(values):
            return " or ".join(show(_claimed(field, value)) for value in values)
        case AtLeast(minimum):
            return f"at least {minimum}"
        case AtLeastEach(minima):
            return "at least " + show(minima)
        case Only(values):
            return "nothing but " + (", ".join(values) or "an empty list")
        case Unchecked(reason):
            return f"anything ({reason})"


def holds(field: Field, constraint: Constraint, claim: ClaimValue | None) -> bool:
    """Whether the claim meets the constraint. For `appraise` alone: it collects every mismatch."""
    match constraint:
        case Unchecked():
            return True
        case AtLeast(minimum):
            return isinstance(claim, int) and not isinstance(claim, bool) and claim >= minimum
        case AtLeastEach(minima):
            return isinstance(claim, Mapping) and all(
                claim.get(name, -1) >= minimum for name, minimum in minima.items()
            )
        case Only(values):
            return isinstance(claim, tuple) and set(claim) <= set(values)
        case AnyOf(values):
            # Types are compared too: in Python, True equals 1.
            return any(
                type(wanted) is type(claim) and wanted == claim
                for wanted in (_claimed(field, value) for value in values)
            )


def show(value: ClaimValue | None) -> str:
    """A claim as people read it: bytes in hex."""
    match value:
        case None:
            return "absent"
        case bytes():
            return value.hex()
        case bool():
            return "true" if value else "false"
        case tuple():
            return ", ".join(value) or "none"
        case Mapping():
            return ", ".join(f"{name} {number}" for name, number in value.items())
        case _:
            return str(value)


def _claimed(field: Field, value: ClaimValue) -> ClaimValue:
    """The claim that evidence makes where the policy writes ``value``."""
    if field.kind is Kind.PUBLIC_KEY and isinstance(value, bytes):
        return bytes(sha256(value))
    return value


def _value(field: Field, value: object, where: str) -> ClaimValue:
    match field.kind, value:
        case Kind.DIGEST, str():
            return decode_hex(value, field=where, length=field.length)
        case Kind.PUBLIC_KEY, str():
            key = decode_hex(value, field=where)
            decode_ed25519_spki(key, field=where)
            return key
        case Kind.BOOL, bool():
            return value
        case Kind.TEXT, str():
            return _text(value, where)
        case Kind.UINT, int() if not isinstance(value, bool) and 0 <= value <= _MAX_UINT:
            return value
    raise _wrong(where, f"a {field.kind}", type(value).__name__)


def _wrong(where: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "policy.constraint",
        f"the constraint {where} can't be right",
        field=where,
        expected=expected,
        got=got,
    )
