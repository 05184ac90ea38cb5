"""Conditions in CEL: they can only tighten, and whatever goes wrong in one is a refusal."""

import dataclasses
import hashlib
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import MalformedError, NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import AnyOf, AtLeast, Policy, PolicyDocument, Unchecked, appraise
from casemate.policy.compare import Verdict, covers, differences
from casemate.policy.condition import MAX_LENGTH, Condition
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS, GPU_FIELDS
from casemate.policy.kinds import Field, Kind
from casemate.types import ReportData, Sha384
from casemate.verify import VerifiedReport

KEY = bytes.fromhex("302a300506032b6570032100") + bytes(32)
LAUNCH = Sha384(b"\x05" * 48)
CLAIMS = {
    "root": b"\x01" * 32,
    "measurement": b"\x02" * 48,
    "debug": False,
    "svn": 3,
    "platform_id": b"\x03" * 32,
}
FREE = {
    "root": AnyOf((KEY,)),
    "measurement": AnyOf((b"\x02" * 48,)),
    "debug": AnyOf((False,)),
    "svn": AtLeast(1),
    "platform_id": Unchecked("any"),
    "launch": Unchecked("any"),
}
EVERY = tuple(
    Field(name=name, kind=kind, remedy="r")
    for name, kind in (
        ("number", Kind.UINT), ("word", Kind.WORD), ("flag", Kind.BOOL), ("text", Kind.TEXT),
        ("texts", Kind.TEXTS), ("levels", Kind.LEVELS), ("data", Kind.DATA), ("day", Kind.DATE),
    )
)  # fmt: skip


def compiled(text, fields=EVERY, gpus=()):
    return Condition.compile(text, fields, gpus, where="c")


def outcome(text, claims, gpus=None):
    condition = compiled(text, gpus=GPU_FIELDS[1:] if gpus is not None else ())
    return condition.outcome("tdx", claims, gpus or [])


def policy(condition, **changes):
    constraints = {**FREE, **changes}
    alternative = Alternative(
        tee=Tee.SIMULATED,
        constraints=constraints,
        condition=compiled(condition, FIELDS[Tee.SIMULATED]) if condition else None,
    )
    return Policy(name="p", alternatives=(alternative,))


def verdict(condition, launch=LAUNCH, constraints=None, **claims):
    """None if accepted, else the fields that aren't as they must be."""
    found = {name: v for name, v in {**CLAIMS, **claims}.items() if v is not None}
    found["root"] = hashlib.sha256(KEY).digest()
    report = VerifiedReport(tee=Tee.SIMULATED, report_data=ReportData(bytes(64)), claims=found)
    try:
        appraise(policy(condition, **(constraints or {})), report, launch=launch)
    except NotAcceptableError as error:
        return [(each.field, each.got) for each in error.mismatches]
    return None


@pytest.mark.parametrize(
    "condition",
    [
        "svn >= 3",
        "svn == 3 && !debug",
        "svn > 9 || measurement == b'" + "\\x02" * 48 + "'",
        "size(platform_id) == 32 && tee == 'simulated'",
        "launch == b'" + "\\x05" * 48 + "'",
    ],
)
def test_a_condition_that_is_true_lets_through(condition):
    assert verdict(condition) is None


def test_a_condition_that_is_false_is_a_mismatch_with_its_text():
    assert verdict("svn > 3") == [("condition", "false")]


def test_it_can_not_make_up_for_a_constraint():
    assert verdict("true", svn=0) == [("svn", "0")]
    assert verdict("svn == 0 || true", measurement=b"\x09" * 48) == [("measurement", "09" * 48)]


@settings(deadline=None)  # a busy machine is no fault
@given(svn=st.integers(0, 5), least=st.integers(0, 5), text=st.sampled_from(
    ["true", "svn > 2", "svn / 0 == 1", "!debug", "svn != 3", "debug || svn > 1"]
))  # fmt: skip
def test_it_only_tightens(svn, least, text):
    rules = {"svn": AtLeast(least)}
    if verdict(text, svn=svn, constraints=rules) is None:
        assert verdict(None, svn=svn, constraints=rules) is None


@pytest.mark.parametrize(
    ("condition", "claims"),
    [
        ("svn / 0 == 1", {}),
        ("svn + 9223372036854775807 > 0", {}),
        ("platform_id != b'x'", {"platform_id": None}),
        ("svn != 3", {"svn": 2**63, "constraints": {"svn": Unchecked("x")}}),
        ("svn != 3", {"svn": True, "constraints": {"svn": Unchecked("x")}}),
        ("svn != 3", {"svn": "4", "constraints": {"svn": Unchecked("x")}}),
        ("launch != b'x'", {"launch": None}),
        ("int('x' + string(platform_id)) != 1", {}),
    ],
)
def test_an_error_is_never_acceptance(condition, claims):
    ((field, got),) = verdict(condition, **claims)
    assert field == "condition"
    assert got not in {"true", "false"}


@pytest.mark.parametrize(
    ("text", "claims", "expected"),
    [
        ("number == 1 && word == 2 && flag", {"number": 1, "word": 2, "flag": True}, "true"),
        ("text.startsWith('a') && day < '2026-01-01'", {"text": "ab", "day": "2025-12-31"}, "true"),
        ("texts.all(x, x in ['a', 'b'])", {"texts": ("a", "b")}, "true"),
        ("texts.exists(x, x == 'c')", {"texts": ("a",)}, "false"),
        ("levels['snp'] - levels.tee >= 3", {"levels": {"snp": 5, "tee": 2}}, "true"),
        ("levels['fmc'] > 0", {"levels": {"snp": 5}}, None),
        ("size(data) == 2", {"data": b"ab"}, "true"),
        ("size(data) == 2", {"data": "ab"}, None),
        ("flag != true", {"flag": 0}, None),
        ("!('a' in texts)", {"texts": "a"}, None),
    ],
)
def test_claims_have_their_fields_types(text, claims, expected):
    got = outcome(text, claims)
    assert got == expected if expected else got.startswith(("no boolean", "an error"))


@pytest.mark.parametrize("tee", FIELDS)
def test_every_field_of_every_tee_has_a_name_and_a_type_in_cel(tee):
    for each in FIELDS[tee]:
        compiled(f"{each.name} == {each.name}", FIELDS[tee])


def test_gpus_are_a_list_with_the_fields_of_each():
    gpus = [{"driver_version": "550.1", "device": b"\x01"}, {"driver_version": "551.2"}]
    assert outcome("gpus.all(g, g.driver_version.startsWith('55'))", {}, gpus) == "true"
    assert outcome("size(gpus) == 3", {}, gpus) == "false"
    assert outcome("gpus.all(g, g.device == b'\\x01')", {}, gpus) not in {"true", "false"}
    with pytest.raises(MalformedError):
        compiled("size(gpus) > 0")


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "numbr > 1", "number", "number > 'x'", "number >", "flag ==", "text",
        "x" * (MAX_LENGTH + 1), "true" + " " * MAX_LENGTH, "(" * 200 + "true" + ")" * 200,
        "now() > 1", "exit(1)", "__import__('os')", "flag & true", "flag; flag", "\x00",
    ],
)  # fmt: skip
def test_what_can_not_be_a_condition_is_refused_when_it_is_read(text):
    with pytest.raises(MalformedError) as caught:
        compiled(text)
    assert caught.value.code == "policy.condition"


@settings(deadline=None)  # a busy machine is no fault
@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_is_refused(text):
    try:
        condition = compiled(text)
    except MalformedError:
        return
    assert isinstance(condition.outcome("tdx", {}, []), str)


def test_what_takes_too_many_steps_is_an_error():
    thrice = "texts.all(x, texts.all(y, texts.all(z, x == y || y == z || true)))"
    started = time.monotonic()
    assert outcome(thrice, {"texts": ("a",) * 64}).startswith("an error")
    assert time.monotonic() - started < 5


def test_a_compiled_condition_serves_several_threads():
    condition = compiled("texts.exists(x, x == text)")
    wrong = []

    def work(number):
        for _ in range(200):
            claims = {"texts": ("a", str(number)), "text": str(number)}
            if condition.outcome("tdx", claims, []) != "true":
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def document(condition):
    return PolicyDocument(policies={"p": policy(condition)}, secrets={})


def test_a_document_keeps_its_conditions():
    for text in ("svn > 1", 'tee == "a\\"b\\n" ||\n svn > 1 // why'):
        rendered = document(text).render()
        parsed = PolicyDocument.parse(rendered)
        assert parsed == document(text)
        assert parsed.policies["p"].alternatives[0].condition.text == text


def test_conditions_count_where_documents_are_compared():
    plain, tight, other = (document(text) for text in (None, "svn > 1", "svn > 2"))
    assert [each.verdict for each in differences(plain, tight)] == [Verdict.SECOND]
    assert [each.verdict for each in differences(tight, other)] == [Verdict.DIFFERENT]
    assert differences(tight, document("svn > 1")) == ()
    alternatives = [each.policies["p"].alternatives[0] for each in (plain, tight)]
    assert covers(*alternatives)
    assert not covers(*reversed(alternatives))
    assert dataclasses.replace(alternatives[1], condition=None) == alternatives[0]


SCRIPT = """
import sys
sys.modules["cel_expr_python"] = None
from casemate.policy import PolicyDocument
from casemate.errors import UnavailableError
text = sys.stdin.read()
try:
    PolicyDocument.parse(text)
except UnavailableError as error:
    print(error.code, error.expected)
PolicyDocument.parse("\\n".join(l for l in text.splitlines() if not l.startswith("condition")))
print("read without it")
"""


def test_without_the_library_a_document_with_a_condition_is_refused():
    done = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT], input=document("svn > 1").render(),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == (
        "policy.condition-library the library cel_expr_python\nread without it\n"
    )
