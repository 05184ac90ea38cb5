"""The examples of docs/reference/policies.md can be read, cover every TEE, and are no bad ones."""

import datetime
from pathlib import Path

import pytest

from casemate.policy import FIELDS, PolicyDocument
from casemate.policy.constraint import Unchecked
from casemate.policy.review import Weight, review

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "policies.md"
EXAMPLES = sorted(DOCUMENT.with_suffix("").glob("*.toml"))
AT = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)
SAID = {
    "condition": {"tcb_status", "advisories"},
    "simulated": {"tee"},
    "maa": {"launch"},
}


def read(path):
    return PolicyDocument.parse(path.read_text())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_no_fault_that_is_not_named(path):
    findings = review(read(path), at=AT)
    worse = {each.field for each in findings if each.weight is not Weight.NOTE}
    assert worse == SAID.get(path.stem, set())
    assert f"(policies/{path.name})" in DOCUMENT.read_text()


def test_there_is_an_example_for_every_tee():
    shown = {
        each.tee
        for path in EXAMPLES
        for policy in read(path).policies.values()
        for each in policy.alternatives
    }
    assert shown == set(FIELDS)


def test_every_form_of_constraint_is_shown():
    text = "".join(path.read_text() for path in EXAMPLES)
    for form in ("exactly", "any_of", "at_least", "at_most", "only", "bits", "absent", "unchecked"):
        assert f"{{ {form} = " in text, form
    for rest in ("expires =", "condition =", ".gpus]"):
        assert rest in text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_reasons_are_reasons(path):
    for policy in read(path).policies.values():
        for each in policy.alternatives:
            for constraint in each.constraints.values():
                assert not isinstance(constraint, Unchecked) or len(constraint.reason) > 10
