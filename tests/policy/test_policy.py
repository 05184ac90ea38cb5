"""Policies: what they demand, what they say when it isn't met, and that nobody passes by."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.simulation import Signer

from casemate.errors import InternalError, MalformedError, NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import (
    FIELDS,
    Alternative,
    AnyOf,
    AppraisedReport,
    AtLeast,
    Policy,
    PolicyDocument,
    Unchecked,
    appraise,
)
from casemate.types import ReportData, Sha384, sha256
from casemate.verify import VerifiedReport

ROOT, OTHER = Signer(b"root"), Signer(b"other")
LAUNCH = Sha384(b"\x05" * 48)
STRICT = {
    "root": AnyOf((ROOT.spki,)),
    "measurement": AnyOf((b"\x01" * 48,)),
    "debug": AnyOf((False,)),
    "svn": AtLeast(3),
    "platform_id": AnyOf((b"\x03" * 32,)),
    "launch": AnyOf((bytes(LAUNCH),)),
}
CLAIMS = {
    "root": bytes(sha256(ROOT.spki)),
    "measurement": b"\x01" * 48,
    "debug": False,
    "svn": 3,
    "platform_id": b"\x03" * 32,
}


def alternative(tee=Tee.SIMULATED, **changes):
    return Alternative(tee=tee, constraints={**STRICT, **changes})


def policy(*alternatives):
    return Policy(name="p", alternatives=alternatives or (alternative(),))


def report(tee=Tee.SIMULATED, **changes):
    claims = {name: v for name, v in {**CLAIMS, **changes}.items() if v is not None}
    return VerifiedReport(tee=tee, report_data=ReportData(bytes(64)), claims=claims)


def refusal(wanted, found, launch=LAUNCH):
    with pytest.raises(NotAcceptableError) as caught:
        appraise(wanted, found, launch=launch)
    return caught.value


def test_a_report_that_meets_everything_is_accepted():
    appraised = appraise(policy(), report(), launch=LAUNCH)
    assert (appraised.policy, appraised.alternative, appraised.launch) == ("p", 0, LAUNCH)


@pytest.mark.parametrize("svn", [3, 4, 2**63 - 1])
def test_at_least_is_met_by_that_and_more(svn):
    assert appraise(policy(), report(svn=svn), launch=LAUNCH)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("root", bytes(sha256(OTHER.spki))),
        ("root", ROOT.spki),  # the key itself, where evidence gives its digest
        ("measurement", b"\x01" * 47 + b"\x02"),
        ("measurement", b""),
        ("debug", True),
        ("debug", 0),
        ("svn", 2),
        ("svn", True),
        ("svn", "9"),
        ("platform_id", b"\x04" * 32),
    ],
)
def test_a_claim_that_is_not_as_demanded_is_a_mismatch(field, value):
    (mismatch,) = refusal(policy(), report(**{field: value})).mismatches
    assert (mismatch.where, mismatch.field) == ("p[0]", field)
    assert mismatch.expected != mismatch.got
    assert mismatch.remedy


def test_a_yes_is_no_number():
    """In Python, True is 1 and more."""
    for wanted in (AtLeast(0), AtLeast(1), AnyOf((1,))):
        (mismatch,) = refusal(policy(alternative(svn=wanted)), report(svn=True)).mismatches
        assert (mismatch.field, mismatch.got) == ("svn", "true")


@pytest.mark.parametrize("field", CLAIMS)
def test_a_claim_that_is_missing_is_a_mismatch(field):
    (mismatch,) = refusal(policy(), report(**{field: None})).mismatches
    assert (mismatch.field, mismatch.got) == (field, "absent")


def test_evidence_itself_can_not_claim_the_contract():
    """Only claims that are bound to it count, and they are given apart."""
    (mismatch,) = refusal(policy(), report(), launch=None).mismatches
    assert (mismatch.field, mismatch.got) == ("launch", "absent")
    forged = report(launch=bytes(LAUNCH))
    other = Sha384(b"\x06" * 48)
    (mismatch,) = refusal(policy(), forged, launch=other).mismatches
    assert (mismatch.field, mismatch.got) == ("launch", other.hex())


def test_every_mismatch_of_every_alternative_is_told_at_once():
    found = report(measurement=b"\x07" * 48, debug=True, svn=0)
    wanted = policy(alternative(), alternative(measurement=AnyOf((b"\x07" * 48,))))
    told = [(item.where, item.field) for item in refusal(wanted, found).mismatches]
    assert told == [
        ("p[0]", "measurement"), ("p[0]", "debug"), ("p[0]", "svn"), ("p[1]", "debug"),
        ("p[1]", "svn"),
    ]  # fmt: skip


def test_two_alternatives_do_not_make_up_for_each_other():
    one, other = b"\x01" * 48, b"\x02" * 48
    wanted = policy(
        alternative(measurement=AnyOf((one,)), svn=AtLeast(10)),
        alternative(measurement=AnyOf((other,)), svn=AtLeast(3)),
    )
    assert refusal(wanted, report(measurement=one, svn=5))
    assert appraise(wanted, report(measurement=other, svn=5), launch=LAUNCH).alternative == 1


def test_an_alternative_of_another_tee_never_holds():
    key = Alternative(
        tee=Tee.IDENTITY_KEY,
        constraints={"key": AnyOf((ROOT.spki,)), "launch": Unchecked("none")},
    )
    (mismatch,) = refusal(policy(key), report()).mismatches
    assert (mismatch.field, mismatch.expected, mismatch.got) == (
        "tee",
        "identity-key",
        "simulated",
    )


def test_what_is_unchecked_may_be_anything_or_nothing():
    wanted = policy(alternative(platform_id=Unchecked("any machine of ours")))
    for value in (None, b"", b"\x09" * 32):
        assert appraise(wanted, report(platform_id=value), launch=LAUNCH)


def test_an_appraised_report_can_not_be_made_without_an_appraisal():
    genuine = appraise(policy(), report(), launch=LAUNCH)
    fields = {"report": report(), "policy": "p", "alternative": 0, "launch": LAUNCH}
    for make in (
        lambda: AppraisedReport(**fields),
        lambda: AppraisedReport(**fields, _proof=object()),
        lambda: AppraisedReport(**fields, _proof=True),
    ):
        with pytest.raises(InternalError) as caught:
            make()
        assert caught.value.code == "policy.forged"
    with pytest.raises(AttributeError):
        genuine.policy = "another"


def document(**changes):
    return PolicyDocument(
        policies={"p": policy(alternative(**changes))}, secrets={"image_key": ("p",)}
    )


@given(
    svn=st.integers(0, 2**63 - 1),
    reason=st.text(min_size=1).filter(str.strip),
    platforms=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=3, unique=True),
)
def test_a_rendered_document_parses_to_itself(svn, reason, platforms):
    for wanted in (
        document(svn=AtLeast(svn), platform_id=Unchecked(reason)),
        document(svn=AnyOf((svn,)), platform_id=AnyOf(tuple(platforms))),
    ):
        try:
            text = wanted.render()
            text.encode()
        except UnicodeEncodeError:
            continue  # a lone surrogate, which no text file holds
        assert PolicyDocument.parse(text) == wanted


@pytest.mark.parametrize("field", [field.name for field in FIELDS[Tee.SIMULATED]])
def test_nothing_is_unchecked_by_omission(field):
    text = document().render()
    kept = [line for line in text.splitlines() if not line.startswith(f"{field} =")]
    with pytest.raises(MalformedError) as caught:
        PolicyDocument.parse("\n".join(kept))
    assert caught.value.code == "policy.unconstrained"
    assert field in caught.value.message


@pytest.mark.parametrize("field", ["root", "measurement", "debug"])
def test_what_every_policy_needs_can_not_go_unchecked(field):
    text = document(**{field: Unchecked("never mind")}).render()
    with pytest.raises(MalformedError) as caught:
        PolicyDocument.parse(text)
    assert caught.value.field.endswith(f".{field}")


def test_a_fault_is_named_with_its_full_path():
    text = document().render().replace("at_least = 3", "at_least = -3")
    with pytest.raises(MalformedError) as caught:
        PolicyDocument.parse(text)
    assert caught.value.field == "policies.p.alternatives[0].svn"


def test_the_anchors_are_the_keys_that_the_policies_name_and_no_others():
    key = Alternative(
        tee=Tee.IDENTITY_KEY,
        constraints={"key": AnyOf((OTHER.spki,)), "launch": Unchecked("none")},
    )
    both = AnyOf((ROOT.spki, OTHER.spki))
    policies = {
        "a": dataclasses.replace(policy(alternative()), name="a"),
        "b": dataclasses.replace(policy(alternative(root=both), key), name="b"),
    }
    anchors = PolicyDocument(policies=policies, secrets={}).trust_anchors()
    assert anchors.development_roots == (ROOT.spki, OTHER.spki)
    assert anchors.identity_keys == (OTHER.spki,)


def test_too_large_a_document_is_refused_unread():
    with pytest.raises(MalformedError):
        PolicyDocument.parse("#" * (1024 * 1024 + 1))
