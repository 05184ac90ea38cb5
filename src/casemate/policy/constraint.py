"""Typed constraints on a claim, or unchecked for a stated reason.

Source: specs/release-policy.md, "Constraints".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from casemate.policy.kinds import Field, Kind
from casemate.types import sha256
from casemate.verify import ClaimValue

_VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,7}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The claim must equal one of these; a single one is what ``exactly`` means."""

    values: tuple[ClaimValue, ...]


@dataclass(frozen=True, slots=True)
class AtLeast:
    """The claim must be this or more: a number, version or day; of bytes, each of them."""

    minimum: int | str | bytes


@dataclass(frozen=True, slots=True)
class AtMost:
    """The claim, an unsigned integer, must be this or less."""

    maximum: int


@dataclass(frozen=True, slots=True)
class AtLeastEach:
    """Each named component of the claim must be at its minimum or more."""

    minima: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Only:
    """The claim is a list, and everything in it must be one of these."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoneOf:
    """The claim is a list, and nothing in it may be one of these."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bits:
    """These bits of the claim must be ones, and those zeros; the others don't count."""

    ones: int | bytes
    zeros: int | bytes


@dataclass(frozen=True, slots=True)
class Absent:
    """The evidence must not make this claim at all."""


@dataclass(frozen=True, slots=True)
class Unchecked:
    """The claim isn't looked at, and this is why."""

    reason: str


Constraint: TypeAlias = (
    AnyOf | AtLeast | AtMost | AtLeastEach | Only | NoneOf | Bits | Absent | Unchecked
)


def default_constraint(field: Field) -> Constraint | None:
    """What holds where a policy says nothing about ``field``, if that is allowed."""
    return AnyOf((field.default,)) if field.default is not None else None


def describe(field: Field, constraint: Constraint) -> str:
    """The constraint in words, for people."""
    match constraint:
        case AnyOf(values):
            return " or ".join(show(claimed(field, value)) for value in values)
        case AtLeast(minimum):
            return f"at least {show(minimum)}"
        case AtMost(maximum):
            return f"at most {maximum}"
        case AtLeastEach(minima):
            return "at least " + show(minima)
        case Only(values):
            return "nothing but " + (", ".join(values) or "an empty list")
        case NoneOf(values):
            return "none of " + ", ".join(values)
        case Bits(ones, zeros):
            parts = {"ones": ones, "zeros": zeros}
            return "bits " + " and ".join(
                f"{what} at {_show_bits(mask)}" for what, mask in parts.items() if as_int(mask)
            )
        case Absent():
            return "absent"
        case Unchecked(reason):
            return f"anything ({reason})"


def holds(field: Field, constraint: Constraint, claim: ClaimValue | None) -> bool:
    """Whether the claim meets the constraint. For `appraise` alone: it collects every mismatch."""
    match constraint:
        case Unchecked():
            return True
        case Absent():
            return claim is None
        case AtLeast(minimum):
            return _is_at_least(field, minimum, claim)
        case AtMost(maximum):
            return isinstance(claim, int) and not isinstance(claim, bool) and claim <= maximum
        case AtLeastEach(minima):
            return isinstance(claim, Mapping) and all(
                claim.get(name, -1) >= minimum for name, minimum in minima.items()
            )
        case Only(values):
            return isinstance(claim, tuple) and set(claim) <= set(values)
        case NoneOf(values):
            return isinstance(claim, tuple) and not set(claim) & set(values)
        case Bits(ones, zeros):
            return _has_bits(ones, zeros, claim)
        case AnyOf(values):
            return any(_is(claimed(field, value), claim) for value in values)


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


def claimed(field: Field, value: ClaimValue) -> ClaimValue:
    """The claim that evidence makes where the policy writes ``value``."""
    if field.kind is Kind.PUBLIC_KEY and isinstance(value, bytes):
        return bytes(sha256(value))
    return value


def version_of(text: str) -> tuple[int, ...] | None:
    """The numbers of a version, without zeros at the end; None if the text isn't one."""
    if not _VERSION.match(text):
        return None
    numbers = [int(part) for part in text.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def as_int(mask: int | bytes) -> int:
    """A mask as a number, whichever way it is written."""
    return int.from_bytes(mask, "big") if isinstance(mask, bytes) else mask


def _is(wanted: ClaimValue, claim: ClaimValue | None) -> bool:
    """Equal, with the type: in Python, True equals 1. Of lists the order doesn't count."""
    if isinstance(wanted, tuple) and isinstance(claim, tuple):
        return sorted(wanted) == sorted(claim)
    return type(wanted) is type(claim) and wanted == claim


def _is_at_least(field: Field, minimum: int | str | bytes, claim: ClaimValue | None) -> bool:
    match minimum, claim:
        case int(), int() if not isinstance(claim, bool):
            return claim >= minimum
        case bytes(), bytes():  # each byte is the version of a component
            return len(claim) == len(minimum) and all(
                got >= wanted for got, wanted in zip(claim, minimum, strict=True)
            )
        case str(), str() if field.kind is Kind.VERSION:
            got, wanted = version_of(claim), version_of(minimum)
            return got is not None and wanted is not None and got >= wanted
        case str(), str():  # days of equal length: as text, they sort by time
            return len(claim) == len(minimum) and claim >= minimum
    return False


def _has_bits(ones: int | bytes, zeros: int | bytes, claim: ClaimValue | None) -> bool:
    match ones, claim:
        case (int(), int()) if not isinstance(claim, bool):
            number = claim
        case (bytes(), bytes()) if len(claim) == len(ones):
            number = as_int(claim)
        case _:
            return False
    return number & as_int(ones) == as_int(ones) and not number & as_int(zeros)


def _show_bits(mask: int | bytes) -> str:
    return mask.hex() if isinstance(mask, bytes) else f"{mask:#x}"
