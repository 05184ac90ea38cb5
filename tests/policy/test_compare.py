"""Which of two policies is stricter: what is called stricter accepts no more."""

import dataclasses
import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.evidence import Tee
from casemate.policy import Alternative, Policy, PolicyDocument
from casemate.policy.compare import Verdict, compare, covers, differences, excludes, implies
from casemate.policy.constraint import (
    Absent,
    AnyOf,
    AtLeast,
    AtLeastEach,
    AtMost,
    Bits,
    NoneOf,
    Only,
    Unchecked,
    holds,
)
from casemate.policy.kinds import Field, Kind

SMALL = st.integers(0, 7)
BYTES = st.binary(min_size=2, max_size=2)
NAMES = st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple)
COMMON = st.sampled_from([Unchecked("x"), Absent()])


def bits(width):
    def of(pair):
        ones, zeros = pair[0] & ~pair[1], pair[1]
        if width:
            return Bits(ones.to_bytes(width, "big"), zeros.to_bytes(width, "big"))
        return Bits(ones, zeros)

    return st.tuples(st.integers(0, 7), st.integers(0, 7)).map(of)


def any_of(values):
    return st.lists(values, min_size=1, max_size=3, unique=True).map(lambda v: AnyOf(tuple(v)))


LEVELS = st.dictionaries(st.sampled_from("ab"), SMALL, min_size=1)
KINDS = {
    Kind.UINT: (SMALL, st.one_of(any_of(SMALL), SMALL.map(AtLeast), SMALL.map(AtMost))),
    Kind.WORD: (SMALL, st.one_of(any_of(SMALL), bits(0))),
    Kind.FLAGS: (
        st.integers(0, 7).map(lambda n: n.to_bytes(2, "big")),
        st.one_of(any_of(BYTES), bits(2)),
    ),
    Kind.SVNS: (
        st.tuples(SMALL, SMALL).map(bytes),
        st.one_of(any_of(BYTES), st.tuples(SMALL, SMALL).map(bytes).map(AtLeast)),
    ),
    Kind.TEXTS: (
        NAMES,
        st.one_of(NAMES.map(Only), NAMES.filter(bool).map(NoneOf), any_of(NAMES)),
    ),
    Kind.LEVELS: (LEVELS, LEVELS.map(AtLeastEach)),
    Kind.VERSION: (
        st.sampled_from(["1", "1.0", "1.2", "1.10", "2"]),
        st.sampled_from(["1", "1.2", "1.10"]).map(AtLeast),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # a busy machine is no fault
@given(data=st.data())
def test_what_implies_accepts_nothing_that_the_other_refuses(kind, data):
    field = Field(name="f", kind=kind, remedy="r", optional=True)
    claims, constraints = KINDS[kind]
    one = data.draw(st.one_of(constraints, COMMON))
    other = data.draw(st.one_of(constraints, COMMON))
    claim = data.draw(st.one_of(claims, st.none()))
    if implies(field, one, other) and holds(field, one, claim):
        assert holds(field, other, claim)
    assert compare(field, one, one) is Verdict.SAME


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)  # a busy machine is no fault
@given(data=st.data())
def test_what_excludes_is_met_by_nothing_that_meets_the_other(kind, data):
    field = Field(name="f", kind=kind, remedy="r", optional=True)
    claims, constraints = KINDS[kind]
    one = data.draw(st.one_of(constraints, COMMON))
    other = data.draw(st.one_of(constraints, COMMON))
    claim = data.draw(st.one_of(claims, st.none()))
    assert excludes(field, one, other) is excludes(field, other, one)
    if excludes(field, one, other):
        assert not (holds(field, one, claim) and holds(field, other, claim))


@pytest.mark.parametrize(
    ("one", "other", "excluded"),
    [
        (AnyOf((1, 2)), AnyOf((3,)), True),
        (AnyOf((1, 2)), AnyOf((2,)), False),
        (AnyOf((1, 2)), AtLeast(3), True),
        (AtLeast(3), AtMost(2), True),
        (AtLeast(2), AtMost(2), False),
        (Absent(), AtLeast(0), True),
        (Absent(), Unchecked("x"), False),
        (AnyOf((1,)), Absent(), True),
    ],
)
def test_what_excludes_what(one, other, excluded):
    field = Field(name="f", kind=Kind.UINT, remedy="r")
    assert excludes(field, one, other) is excluded
    assert excludes(field, other, one) is excluded


@pytest.mark.parametrize(
    ("kind", "one", "other", "verdict"),
    [
        (Kind.UINT, AtLeast(3), AtLeast(2), Verdict.FIRST),
        (Kind.UINT, AtLeast(2), AnyOf((4, 5)), Verdict.SECOND),
        (Kind.UINT, AtMost(2), AtMost(3), Verdict.FIRST),
        (Kind.UINT, AtMost(1), AnyOf((0, 1)), Verdict.SAME),
        (Kind.UINT, AtLeast(2), AtMost(3), Verdict.DIFFERENT),
        (Kind.TEXTS, Only(()), Only(("a",)), Verdict.FIRST),
        (Kind.TEXTS, NoneOf(("a",)), NoneOf(("a", "b")), Verdict.SECOND),
        (Kind.TEXTS, Only(("b",)), NoneOf(("a",)), Verdict.FIRST),
        (Kind.WORD, Bits(1, 2), Bits(1, 0), Verdict.FIRST),
        (Kind.UINT, Unchecked("a"), Unchecked("b"), Verdict.SAME),
        (Kind.UINT, Absent(), Unchecked("b"), Verdict.FIRST),
        (Kind.LEVELS, AtLeastEach({"a": 1, "b": 1}), AtLeastEach({"a": 1}), Verdict.FIRST),
        (Kind.VERSION, AtLeast("1.10"), AtLeast("1.9"), Verdict.FIRST),
    ],
)
def test_which_is_stricter(kind, one, other, verdict):
    assert compare(Field(name="f", kind=kind, remedy="r"), one, other) is verdict


KEY = bytes.fromhex("302a300506032b6570032100") + bytes(32)
BASE = {
    "root": AnyOf((KEY,)),
    "measurement": AnyOf((b"\x01" * 48,)),
    "debug": AnyOf((False,)),
    "svn": AtLeast(3),
    "platform_id": Unchecked("any"),
    "launch": AnyOf((b"\x05" * 48,)),
}
END = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)


def alternative(expires=None, **changes):
    return Alternative(tee=Tee.SIMULATED, constraints={**BASE, **changes}, expires=expires)


def document(*alternatives, **secrets):
    return PolicyDocument(
        policies={"p": Policy(name="p", alternatives=alternatives)}, secrets=secrets
    )


def told(first, second):
    return [(each.where, each.field, each.verdict) for each in differences(first, second)]


def test_documents_that_demand_the_same_do_not_differ():
    other = document(alternative(platform_id=Unchecked("for another reason")))
    assert told(document(alternative()), other) == []


def test_each_field_that_differs_is_told_with_who_is_stricter():
    second = document(alternative(svn=AtLeast(4), platform_id=AnyOf((bytes(32),))))
    assert told(document(alternative()), second) == [
        ("policies.p[0]", "svn", Verdict.SECOND),
        ("policies.p[0]", "platform_id", Verdict.SECOND),
    ]


def test_alternatives_are_paired_by_what_they_agree_on():
    old, new = alternative(), alternative(measurement=AnyOf((b"\x02" * 48,)), svn=AtLeast(5))
    assert told(document(old, new), document(new, old)) == []
    assert told(document(old, new), document(new)) == [
        ("policies.p[0]", "alternative", Verdict.SECOND)
    ]
    assert told(document(new), document(old, new)) == [("policies.p", "alternative", Verdict.FIRST)]


def test_an_end_is_stricter_than_none():
    assert told(document(alternative(expires=END)), document(alternative())) == [
        ("policies.p[0]", "expires", Verdict.FIRST)
    ]
    assert covers(alternative(), alternative(expires=END))
    assert not covers(alternative(expires=END), alternative())


def test_secrets_count():
    one = document(alternative(), a=("p",), b=("p",))
    two = dataclasses.replace(one, secrets={"a": ("p",), "c": ("p",)})
    assert told(one, two) == [
        ("secrets.b", "policies", Verdict.SECOND),
        ("secrets.c", "policies", Verdict.FIRST),
    ]
