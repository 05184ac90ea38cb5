"""What fields mean, why a change may be unwise, and the least change that accepts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.encoding import MapReader
from casemate.evidence import Tee
from casemate.policy import FIELDS
from casemate.policy.constraint import (
    Absent,
    AnyOf,
    AtLeast,
    AtLeastEach,
    AtMost,
    Bits,
    NoneOf,
    Only,
    holds,
)
from casemate.policy.kinds import Kind
from casemate.policy.meanings import MEANINGS, meaning, unwise
from casemate.policy.relax import accepting
from casemate.policy.source import parse_constraint, render_constraint

ALL = [(tee, field) for tee, fields in FIELDS.items() for field in fields]
IDS = [f"{tee}-{field.name}" for tee, field in ALL]


@pytest.mark.parametrize(("tee", "field"), ALL, ids=IDS)
def test_every_field_of_every_tee_has_a_meaning(tee, field):
    text = meaning(tee, field.name)
    assert text.endswith(".")
    assert "no words" not in text


def test_no_meaning_is_of_nothing():
    names = {field.name for _, field in ALL} | {"tee", "expires", "condition", "gpus", "count"}
    assert set(MEANINGS) <= names
    assert "no words" in meaning(Tee.SNP, "unheard_of")


def values(field):
    """Claims of a field's kind."""
    length = field.lengths[0] if field.lengths else 4
    text = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=5)
    return {
        Kind.DIGEST: st.binary(min_size=length, max_size=length),
        Kind.SVNS: st.binary(min_size=length, max_size=length),
        Kind.FLAGS: st.binary(min_size=length, max_size=length),
        Kind.DATA: st.binary(max_size=8),
        Kind.UINT: st.integers(0, 9),
        Kind.WORD: st.integers(0, 255),
        Kind.BOOL: st.booleans(),
        Kind.TEXT: text,
        Kind.VERSION: st.sampled_from(["0.1", "1", "1.0.1", "2.10", "11"]),
        Kind.DATE: st.sampled_from(["2024-01-01", "2025-06-30", "2026-11-25"]),
        Kind.TEXTS: st.lists(text, max_size=3, unique=True).map(tuple),
        Kind.LEVELS: st.fixed_dictionaries({"snp": st.integers(0, 9), "tee": st.integers(0, 9)}),
    }[field.kind]


def constraints(field):
    """Constraints that a document can state for a field."""
    claims = values(field)
    forms = []
    if field.kind is Kind.LEVELS:
        forms.append(claims.map(AtLeastEach))
    elif field.kind is Kind.TEXTS:
        forms += [claims.map(Only), claims.filter(bool).map(NoneOf)]
    else:
        forms.append(claims.map(lambda value: AnyOf((value,))))
    if field.kind in {Kind.UINT, Kind.VERSION, Kind.DATE, Kind.SVNS}:
        forms.append(claims.map(AtLeast))
    if field.kind is Kind.UINT:
        forms.append(claims.map(AtMost))
    if field.kind is Kind.WORD:
        forms.append(claims.filter(bool).map(lambda mask: Bits(mask & 0xF0, mask & 0x0F)))
    if field.kind is Kind.FLAGS:
        forms.append(claims.filter(any).map(lambda mask: Bits(mask, bytes(len(mask)))))
    if field.optional:
        forms.append(st.just(Absent()))
    return st.one_of(forms)


@pytest.mark.parametrize(
    "field", {f"{field.kind}": field for _, field in ALL}.values(), ids=lambda f: f.kind
)
@given(data=st.data())
def test_what_is_proposed_accepts_and_can_be_written(field, data):
    if field.kind is Kind.PUBLIC_KEY:
        assert accepting(field, AnyOf((b"x",)), b"\0" * 32) is None
        return
    constraint = data.draw(constraints(field))
    claim = data.draw(values(field) | st.none() if field.optional else values(field))
    if holds(field, constraint, claim):
        return
    changed = accepting(field, constraint, claim)
    if changed is None:  # levels without a common component, or what can't go unchecked
        assert field.must_check or field.kind is Kind.LEVELS
        return
    assert holds(field, changed, claim)
    import tomllib

    table = tomllib.loads(f"c = {{ {render_constraint(changed)} }}")["c"]
    assert parse_constraint(field, MapReader(table, what="c")) == changed


def test_only_what_does_not_match_is_widened():
    by_name = {field.name: field for field in FIELDS[Tee.SNP]}
    levels = accepting(
        by_name["reported_tcb"], AtLeastEach({"snp": 24, "tee": 0}), {"snp": 20, "tee": 3}
    )
    assert levels == AtLeastEach({"snp": 20, "tee": 0})
    assert accepting(by_name["measurement"], AnyOf((b"a" * 48,)), b"b" * 48) == AnyOf(
        (b"a" * 48, b"b" * 48)
    )
    bits = accepting(by_name["guest_policy"], Bits(0x20000, 0x80000), 0xA0000)
    assert bits == Bits(0x20000, 0)


@pytest.mark.parametrize(
    ("field", "constraint", "claim", "word"),
    [
        ("debug", AnyOf((False,)), True, "read every secret"),
        ("tcb_status", AnyOf(("UpToDate",)), "OutOfDate", "OutOfDate"),
        ("advisories", Only(("INTEL-SA-1",)), ("INTEL-SA-1", "INTEL-SA-2"), "INTEL-SA-2"),
        ("reported_tcb", AtLeastEach({"snp": 24}), {"snp": 20}, "Older versions"),
        ("guest_svn", AtLeast(3), 2, "Older versions"),
        ("root", AnyOf((b"x",)), b"\0" * 32, "development"),
        ("revocation", AnyOf(("good",)), "unknown", "nobody looked"),
        ("advisories", NoneOf(("INTEL-SA-1",)), ("INTEL-SA-1",), "INTEL-SA-1"),
        ("platform_info", Bits(1, 0), 0, "by name"),
        ("collateral_age_days", AtMost(30), 90, "since then"),
        ("status", AnyOf(("affirming",)), "contraindicated", "says no"),
    ],
)
def test_why_it_would_be_unwise(field, constraint, claim, word):
    assert word in unwise(field, constraint, claim)


def test_a_measurement_is_a_matter_of_knowing_it():
    assert unwise("measurement", AnyOf((b"a",)), b"b") is None
    assert "INTEL-SA-1," not in unwise("advisories", Only(("INTEL-SA-1",)), ("INTEL-SA-2",))
