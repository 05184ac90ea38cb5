"""Errors: causes apart, and all that a reader needs to go on."""

import inspect
import json

import pytest

from casemate import errors
from casemate.errors import (
    CasemateError,
    InternalError,
    MalformedError,
    Mismatch,
    NotAcceptableError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)
from casemate.errors.render import render_error

MISMATCHES = tuple(
    Mismatch(where="p[0]", field=name, expected="x", got="y", remedy=f"Mend {name}.")
    for name in ("debug", "svn")
)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (InternalError, 1),
        (UsageError, 2),
        (MalformedError, 3),
        (NotGenuineError, 4),
        (NotAcceptableError, 5),
        (UnavailableError, 6),
    ],
)
def test_every_cause_has_its_exit_code(kind, code):
    assert kind("a.b", "it failed").exit_code == code


def test_no_two_causes_share_a_code_or_a_name():
    kinds = [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, CasemateError) and kind is not CasemateError
    ]
    assert len(kinds) == 6
    assert len({kind.exit_code for kind in kinds}) == 6
    assert len({kind.cause for kind in kinds}) == 6
    assert not any(a is not b and issubclass(a, b) for a in kinds for b in kinds)


def test_an_error_says_what_was_expected_beside_what_was_there():
    error = MalformedError("a.b", "it failed", field="f", expected="1", got="2", remedy="Mend it.")
    assert str(error) == "it failed; field: f; expected: 1; got: 2"
    assert error.as_dict() == {
        "code": "a.b",
        "cause": "malformed input",
        "message": "it failed",
        "field": "f",
        "expected": "1",
        "got": "2",
        "remedy": "Mend it.",
    }


def test_what_an_error_does_not_know_is_left_out():
    error = UsageError("a.b", "it failed")
    assert str(error) == "it failed"
    assert error.as_dict() == {
        "code": "a.b",
        "cause": "usage or configuration",
        "message": "it failed",
    }


def test_a_policy_that_says_no_lists_every_mismatch():
    error = NotAcceptableError("policy.mismatch", "no", mismatches=MISMATCHES)
    assert [line.strip() for line in str(error).splitlines()[1:]] == [
        "p[0]: debug: expected x, got y",
        "p[0]: svn: expected x, got y",
    ]
    shown = json.loads(json.dumps(error.as_dict()))["mismatches"]
    assert [item["field"] for item in shown] == ["debug", "svn"]
    assert shown[0]["remedy"] == "Mend debug."


def test_people_read_cause_and_code_first_and_the_remedy_last():
    error = NotAcceptableError(
        "policy.mismatch",
        "the policy says no",
        field="debug",
        expected="false",
        got="true",
        mismatches=MISMATCHES,
        remedy="Mend it.",
    )
    first, *rest, last = render_error(error, program="casemate broker").splitlines()
    assert first == (
        "casemate broker: not acceptable to the policy: the policy says no [policy.mismatch]"
    )
    assert [line.split() for line in rest[:3]] == [
        ["field:", "debug"],
        ["expected:", "false"],
        ["got:", "true"],
    ]
    assert len(rest) == 3 + len(MISMATCHES)
    assert last.split(maxsplit=1) == ["remedy:", "Mend it."]


def test_an_error_with_nothing_to_add_is_one_line():
    assert render_error(UsageError("a.b", "it failed")) == (
        "casemate: usage or configuration: it failed [a.b]"
    )


def test_a_strangers_text_starts_no_line_and_moves_no_cursor():
    error = MalformedError("a.b", "no", field="f\x1b[2J", got="x\r\ncasemate: genuine")
    lines = render_error(error).splitlines()
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)
