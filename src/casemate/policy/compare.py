"""Which of two constraints, alternatives or documents is stricter.

A constraint implies another one if every claim that it accepts is accepted by the other too. What
implies and isn't implied is stricter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

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
    claimed,
    describe,
    holds,
)
from casemate.policy.document import Alternative, PolicyDocument
from casemate.policy.kinds import Field

_SMALL = 4096


class Verdict(StrEnum):
    """How two things compare."""

    SAME = "same"
    FIRST = "the first is stricter"
    SECOND = "the second is stricter"
    DIFFERENT = "neither is stricter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in which two documents differ.

    Args:
        where: ``policies.NAME[INDEX]``, with the first document's number, or ``secrets.NAME``.
        field: which field differs; ``alternative``, ``policy`` or ``policies`` where it is all.
        first, second: what each says; ``nothing`` where it says nothing.
        verdict: which is stricter.
    """

    where: str
    field: str
    first: str
    second: str
    verdict: Verdict


def implies(field: Field, one: Constraint, other: Constraint) -> bool:
    """Whether whatever ``one`` accepts is accepted by ``other``; False where that isn't known."""
    match one, other:
        case _, Unchecked():
            return True
        case Absent(), Absent():
            return True
        case AnyOf(values), _:
            return all(holds(field, other, claimed(field, value)) for value in values)
        case AtLeast(minimum), AtLeast():
            return holds(field, other, minimum)
        case AtMost(maximum), AtMost(limit):
            return maximum <= limit
        case AtMost(maximum), _ if maximum < _SMALL:
            return all(holds(field, other, number) for number in range(maximum + 1))
        case AtLeastEach(minima), AtLeastEach(others):
            return all(minima.get(name, -1) >= minimum for name, minimum in others.items())
        case Only(values), (Only() | NoneOf()):
            return holds(field, other, values)
        case Only(()), AnyOf(values):
            return () in values
        case NoneOf(values), NoneOf(others):
            return set(others) <= set(values)
        case Bits(ones, zeros), Bits(more, less):
            return not (as_int(more) & ~as_int(ones) or as_int(less) & ~as_int(zeros))
    return False


def compare(field: Field, one: Constraint, other: Constraint) -> Verdict:
    """Which constraint on ``field`` is stricter."""
    return _verdict(implies(field, one, other), implies(field, other, one))


def covers(wide: Alternative, narrow: Alternative) -> bool:
    """Whether whatever ``narrow`` accepts is accepted by ``wide`` too."""
    if wide.tee is not narrow.tee or not _lasts(wide, narrow) or not _asks_less(wide, narrow):
        return False
    if (wide.gpus is None) is not (narrow.gpus is None):
        return False
    return all(
        implies(field, narrow.constraints[field.name], constraint)
        for field, constraint in wide.fields()
    ) and all(
        implies(field, narrow.gpus[field.name], constraint)
        for field, constraint in wide.gpu_fields()
        if narrow.gpus is not None
    )


def excludes(field: Field, one: Constraint, other: Constraint) -> bool:
    """Whether no claim meets both; False where that isn't known."""
    match one, other:
        case (AnyOf(values), other_) | (other_, AnyOf(values)):
            return not any(holds(field, other_, claimed(field, value)) for value in values)
        case (AtLeast(int() as minimum), AtMost(maximum)) | (AtMost(maximum), AtLeast(
            int() as minimum
        )):  # fmt: skip
            return minimum > maximum
        case Bits(ones, zeros), Bits(others, nulls):
            return bool(as_int(ones) & as_int(nulls) or as_int(zeros) & as_int(others))
        case (Absent(), rule) | (rule, Absent()):
            return not isinstance(rule, Absent | Unchecked)
    return False


def exclude(one: Alternative, other: Alternative) -> bool:
    """Whether no evidence meets both alternatives; False where that isn't known."""
    if one.tee is not other.tee or (one.gpus is None) is not (other.gpus is None):
        return True
    return any(
        excludes(field, constraint, other.constraints[field.name])
        for field, constraint in one.fields()
    ) or any(
        excludes(field, constraint, other.gpus[field.name])
        for field, constraint in one.gpu_fields()
        if other.gpus is not None
    )


def differences(first: PolicyDocument, second: PolicyDocument) -> tuple[Difference, ...]:
    """Everything in which two documents differ, in the order of the first.

    Alternatives are paired by how much they agree on, not by their place. Reasons for leaving a
    field unchecked don't count.
    """
    found = list(_secrets(first.secrets, second.secrets))
    for name in dict.fromkeys((*first.policies, *second.policies)):
        where = f"policies.{name}"
        if name not in first.policies or name not in second.policies:
            texts = ("nothing", "a policy") if name not in first.policies else (
                "a policy", "nothing"
            )  # fmt: skip
            found.append(
                Difference(
                    where=where, field="policy", first=texts[0], second=texts[1],
                    verdict=Verdict.DIFFERENT,
                )
            )  # fmt: skip
            continue
        one, other = first.policies[name].alternatives, second.policies[name].alternatives
        found += _alternatives(where, one, other)
    return tuple(found)


def _verdict(one_implies: bool, other_implies: bool) -> Verdict:
    if one_implies:
        return Verdict.SAME if other_implies else Verdict.FIRST
    return Verdict.SECOND if other_implies else Verdict.DIFFERENT


def _lasts(wide: Alternative, narrow: Alternative) -> bool:
    if wide.expires is None:
        return True
    return narrow.expires is not None and narrow.expires <= wide.expires


def _asks_less(wide: Alternative, narrow: Alternative) -> bool:
    """Of two conditions that differ, it isn't known which is stricter."""
    return wide.condition in (None, narrow.condition)


def _secrets(
    first: Mapping[str, tuple[str, ...]], second: Mapping[str, tuple[str, ...]]
) -> list[Difference]:
    """More policies for a secret are stricter; a secret in one alone is released by that alone."""
    found = []
    for name in dict.fromkeys((*first, *second)):
        one, other = first.get(name), second.get(name)
        if one is not None and other is not None and set(one) == set(other):
            continue
        verdict = Verdict.DIFFERENT
        if one is None or other is None:  # who doesn't know a secret doesn't release it
            verdict = Verdict.FIRST if one is None else Verdict.SECOND
        elif set(one) > set(other) or set(one) < set(other):
            verdict = Verdict.FIRST if len(one) > len(other) else Verdict.SECOND
        shown = [" and ".join(each) if each is not None else "nothing" for each in (one, other)]
        found.append(
            Difference(
                where=f"secrets.{name}", field="policies", first=shown[0], second=shown[1],
                verdict=verdict,
            )
        )  # fmt: skip
    return found


def _alternatives(
    where: str, first: tuple[Alternative, ...], second: tuple[Alternative, ...]
) -> list[Difference]:
    scores = sorted(
        (
            (_agreement(one, other), -here, -there)
            for here, one in enumerate(first)
            for there, other in enumerate(second)
            if one.tee is other.tee
        ),
        reverse=True,
    )
    pairs: dict[int, int] = {}
    for _, here, there in scores:  # those that agree most, first
        if -here not in pairs and -there not in pairs.values():
            pairs[-here] = -there
    found: list[Difference] = []
    for index, one in enumerate(first):
        if index in pairs:
            found += _fields(f"{where}[{index}]", one, second[pairs[index]])
        else:  # the first accepts what the second doesn't know
            found.append(_one_sided(f"{where}[{index}]", one, Verdict.SECOND))
    rest = [each for index, each in enumerate(second) if index not in pairs.values()]
    return found + [_one_sided(where, each, Verdict.FIRST) for each in rest]


def _agreement(one: Alternative, other: Alternative) -> int:
    return sum(
        compare(field, constraint, other.constraints[field.name]) is Verdict.SAME
        for field, constraint in one.fields()
    )


def _fields(where: str, one: Alternative, other: Alternative) -> list[Difference]:
    found = []
    if one.expires != other.expires:
        ends = [str(each.expires.isoformat()) if each.expires else "never" for each in (one, other)]
        verdict = _verdict(_lasts(other, one), _lasts(one, other))
        found.append(
            Difference(where=where, field="expires", first=ends[0], second=ends[1], verdict=verdict)
        )
    if one.condition != other.condition:
        says = [each.condition.text if each.condition else "none" for each in (one, other)]
        verdict = _verdict(_asks_less(other, one), _asks_less(one, other))
        found.append(
            Difference(
                where=where, field="condition", first=says[0], second=says[1], verdict=verdict
            )
        )
    found += _constraints(where, "", one.fields(), other.constraints)
    if one.gpus is not None and other.gpus is not None:
        found += _constraints(where, "gpus.", one.gpu_fields(), other.gpus)
    elif one.gpus is not None or other.gpus is not None:
        says = ["GPUs" if each.gpus is not None else "no GPU" for each in (one, other)]
        found.append(
            Difference(
                where=where, field="gpus", first=says[0], second=says[1], verdict=Verdict.DIFFERENT
            )
        )
    return found


def _constraints(
    where: str,
    prefix: str,
    fields: Iterable[tuple[Field, Constraint]],
    others: Mapping[str, Constraint],
) -> Iterator[Difference]:
    for field, constraint in fields:
        theirs = others[field.name]
        verdict = compare(field, constraint, theirs)
        if verdict is not Verdict.SAME:
            yield Difference(
                where=where,
                field=prefix + field.name,
                first=describe(field, constraint),
                second=describe(field, theirs),
                verdict=verdict,
            )


def _one_sided(where: str, alternative: Alternative, verdict: Verdict) -> Difference:
    shown = f"{alternative.tee}, with {sum(1 for _ in alternative.fields())} fields"
    first, second = (shown, "nothing") if verdict is Verdict.SECOND else ("nothing", shown)
    return Difference(where=where, field="alternative", first=first, second=second, verdict=verdict)
