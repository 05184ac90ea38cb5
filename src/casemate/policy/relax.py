"""The least that must change in a constraint so that it would hold for a claim.

For explaining a refusal. Nothing applies such a change: a person reads it, with the reason why it
may be unwise (`casemate.policy.meanings`), and edits the document or doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

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
)
from casemate.policy.kinds import Field, Kind
from casemate.verify import ClaimValue

_REASON = "the evidence of {name} is accepted as it is"


def accepting(field: Field, constraint: Constraint, claim: ClaimValue | None) -> Constraint | None:
    """A constraint that the claim meets, as near to the old one as can be.

    Args:
        field: what is constrained.
        constraint: that doesn't hold.
        claim: what the evidence says.

    Returns:
        The new constraint, or None where none can be written: a key is known by its hash alone, or
        evidence lacks what a policy can't do without.
    """
    if claim is None:
        return Absent() if field.optional else _unchecked(field)
    match constraint, claim:
        case AnyOf(), _ if field.kind is Kind.PUBLIC_KEY:
            return None
        case AnyOf(), bool() | tuple():
            return AnyOf((claim,))
        case AnyOf(values), _:
            return AnyOf((*values, claim))
        case AtLeast(minimum), _:
            return _lower(minimum, claim)
        case AtMost(), int():
            return AtMost(claim)
        case AtLeastEach(minima), Mapping():
            return _lower_each(minima, claim)
        case Only(values), tuple():
            return Only((*values, *(each for each in claim if each not in values)))
        case NoneOf(values), tuple():
            left = tuple(value for value in values if value not in claim)
            return NoneOf(left) if left else _unchecked(field)
        case Bits(ones, zeros), int() | bytes():
            return _fewer_bits(field, ones, zeros, claim)
        case Absent(), _:
            return _exactly(claim)
        case _:
            return _unchecked(field)


def _unchecked(field: Field) -> Unchecked | None:
    return None if field.must_check else Unchecked(_REASON.format(name=field.name))


def _exactly(claim: ClaimValue) -> Constraint:
    return AtLeastEach(MappingProxyType(dict(claim))) if isinstance(claim, Mapping) else AnyOf(
        (claim,)
    )  # fmt: skip


def _lower(minimum: int | str | bytes, claim: ClaimValue) -> Constraint | None:
    match minimum, claim:
        case bytes(), bytes() if len(minimum) == len(claim):
            return AtLeast(bytes(map(min, minimum, claim)))
        case int(), int():
            return AtLeast(claim)
        case str(), str():
            return AtLeast(claim)
    return None


def _lower_each(minima: Mapping[str, int], claim: Mapping[str, int]) -> Constraint | None:
    left = {name: min(floor, claim[name]) for name, floor in minima.items() if name in claim}
    return AtLeastEach(MappingProxyType(left)) if left else None


def _fewer_bits(
    field: Field, ones: int | bytes, zeros: int | bytes, claim: int | bytes
) -> Constraint | None:
    if isinstance(ones, bytes) and (not isinstance(claim, bytes) or len(claim) != len(ones)):
        return _unchecked(field)
    got = as_int(claim)
    kept = as_int(ones) & got, as_int(zeros) & ~got
    if not any(kept):
        return _unchecked(field)
    if isinstance(ones, bytes):
        size = len(ones)
        return Bits(kept[0].to_bytes(size, "big"), kept[1].to_bytes(size, "big"))
    return Bits(*kept)
