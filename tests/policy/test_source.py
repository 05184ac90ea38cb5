"""Constraints in documents: whatever can be built is written and read as the same again."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.evidence import Tee
from casemate.evidence.composite import CPU_TEES
from casemate.policy import FIELDS, Alternative, Policy, PolicyDocument
from casemate.policy.condition import Condition
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
)
from casemate.policy.fields import GPU_FIELDS
from casemate.policy.kinds import Kind

KEY = bytes.fromhex("302a300506032b6570032100")
NUMBERS = st.integers(0, 2**63 - 1)
CHARACTERS = st.characters(exclude_categories=("Cs",))
TEXTS = st.text(CHARACTERS, min_size=1, max_size=20)
LISTS = st.lists(TEXTS, unique=True, max_size=3).map(tuple)
DAYS = st.dates(datetime.date(1970, 1, 1), datetime.date(2200, 1, 1)).map(lambda d: d.isoformat())
VERSIONS = st.lists(st.integers(0, 999), min_size=1, max_size=4).map(
    lambda parts: ".".join(map(str, parts))
)
REASONS = TEXTS.filter(str.strip)


def any_of(values):
    return st.lists(values, min_size=1, max_size=3, unique=True).map(lambda v: AnyOf(tuple(v)))


def masks(values, width):
    def of(pair):
        ones, zeros = pair[0] & ~pair[1], pair[1]
        if width:
            return Bits(ones.to_bytes(width, "big"), zeros.to_bytes(width, "big"))
        return Bits(ones, zeros)

    limit = 256**width - 1 if width else 2**63 - 1
    return st.tuples(st.integers(0, limit), st.integers(0, limit)).filter(any).map(of)


def _forms(field):
    size = field.lengths[0] if field.lengths else 0
    raw = st.binary(min_size=size, max_size=size)
    match field.kind:
        case Kind.DIGEST:
            return any_of(raw)
        case Kind.PUBLIC_KEY:
            return any_of(st.binary(min_size=32, max_size=32).map(lambda key: KEY + key))
        case Kind.UINT:
            return st.one_of(any_of(NUMBERS), NUMBERS.map(AtLeast), NUMBERS.map(AtMost))
        case Kind.WORD:
            return st.one_of(any_of(NUMBERS), masks(NUMBERS, 0))
        case Kind.FLAGS:
            return st.one_of(any_of(raw), masks(raw, size))
        case Kind.SVNS:
            return st.one_of(any_of(raw), raw.map(AtLeast))
        case Kind.BOOL:
            return st.booleans().map(lambda value: AnyOf((value,)))
        case Kind.TEXT:
            return any_of(TEXTS)
        case Kind.TEXTS:
            return st.one_of(LISTS.map(Only), LISTS.filter(bool).map(NoneOf), any_of(LISTS))
        case Kind.LEVELS:
            names = st.sampled_from(["snp", "tee", "fmc"])
            return st.dictionaries(names, NUMBERS, min_size=1).map(AtLeastEach)
        case Kind.VERSION:
            return st.one_of(any_of(VERSIONS), VERSIONS.map(AtLeast))
        case Kind.DATE:
            return st.one_of(any_of(DAYS), DAYS.map(AtLeast))
        case Kind.DATA:
            return any_of(st.binary(max_size=40))


def constraints(field):
    forms = [_forms(field)]
    if not field.must_check:
        forms.append(REASONS.map(Unchecked))
    if field.optional:
        forms.append(st.just(Absent()))
    return st.one_of(forms)


def rules(fields):
    return st.fixed_dictionaries({field.name: constraints(field) for field in fields})


@pytest.mark.parametrize("tee", FIELDS)
@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_what_is_written_is_read_as_the_same(tee, data):
    condition = data.draw(st.sampled_from([None, "true", "tee != '\"\\n' // why"]))
    gpus = data.draw(st.one_of(st.none(), rules(GPU_FIELDS))) if tee in CPU_TEES else None
    alternative = Alternative(
        tee=tee,
        constraints=data.draw(rules(FIELDS[tee])),
        expires=data.draw(st.one_of(st.none(), st.datetimes(timezones=st.just(datetime.UTC)))),
        gpus=gpus,
        condition=Condition.compile(condition, (), (), where="c") if condition else None,
    )
    document = PolicyDocument(
        policies={"p": Policy(name="p", alternatives=(alternative,))}, secrets={"s": ("p",)}
    )
    assert PolicyDocument.parse(document.render()) == document


def test_every_tee_of_composites_first_place_has_fields():
    assert set(CPU_TEES) <= set(FIELDS)
    assert Tee.COMPOSITE not in FIELDS
