"""No way leads to a secret but through an appraisal for each policy that it demands."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.broker.store import SecretStore
from casemate.errors import NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import Alternative, AnyOf, Policy, PolicyDocument, Unchecked, appraise
from casemate.types import ReportData, Secret, sha256
from casemate.verify import VerifiedReport

KEYS = {name: b"key of " + name.encode() for name in "abcd"}
POLICIES = {
    name: Policy(
        name=name,
        alternatives=(
            Alternative(
                tee=Tee.IDENTITY_KEY,
                constraints={"key": AnyOf((key,)), "launch": Unchecked("test")},
            ),
        ),
    )
    for name, key in KEYS.items()
}
DEMANDS = st.dictionaries(
    st.sampled_from(["s1", "s2", "s3"]),
    st.lists(st.sampled_from(sorted(POLICIES)), min_size=1, unique=True).map(tuple),
    min_size=1,
)


def appraised(name):
    report = VerifiedReport(
        tee=Tee.IDENTITY_KEY,
        report_data=ReportData(bytes(64)),
        claims={"key": bytes(sha256(KEYS[name]))},
    )
    return appraise(POLICIES[name], report, launch=None)


def store_of(demands):
    document = PolicyDocument(policies=POLICIES, secrets=demands)
    return SecretStore({name: Secret(name.encode()) for name in demands}, document)


@given(DEMANDS, st.sets(st.sampled_from(sorted(POLICIES))))
def test_a_secret_opens_for_all_of_its_policies_and_for_nothing_less(demands, held):
    store = store_of(demands)
    reports = {name: appraised(name) for name in held}
    for name, demanded in demands.items():
        if set(demanded) <= held:
            assert store.open(name, reports).reveal() == name.encode()
        else:
            with pytest.raises(NotAcceptableError) as caught:
                store.open(name, reports)
            assert {m.expected for m in caught.value.mismatches} == set(demanded) - held


class Lookalike:
    """Has what an appraised report has, and was never appraised."""

    def __init__(self, policy):
        self.policy = policy


@given(
    DEMANDS, st.sampled_from(sorted(POLICIES)), st.sampled_from(["shifted", "lookalike", "true"])
)
def test_nothing_else_stands_for_an_appraisal(demands, held, kind):
    """One policy's report under every name, something that looks like one, or a plain yes."""
    store = store_of(demands)
    forged = {
        "shifted": lambda name: appraised(held) if name != held else None,
        "lookalike": Lookalike,
        "true": lambda name: True,
    }[kind]
    reports = {name: forged(name) for name in POLICIES}
    for name in demands:
        with pytest.raises(NotAcceptableError):
            store.open(name, reports)


@given(DEMANDS, st.text())
def test_a_name_that_is_not_there_is_refused_whatever_holds(demands, name):
    reports = {policy: appraised(policy) for policy in POLICIES}
    if name not in demands:
        with pytest.raises(NotAcceptableError) as caught:
            store_of(demands).open(name, reports)
        assert caught.value.code == "store.refused"
