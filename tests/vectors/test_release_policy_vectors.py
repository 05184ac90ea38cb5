"""The vectors of specs/release-policy.md: our parser, appraisal and store agree with them."""

import datetime

import pytest
from tests.support import vectors

from casemate.broker.store import SecretStore
from casemate.errors import CasemateError, NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import PolicyDocument, appraise
from casemate.policy.compare import differences
from casemate.policy.occlum import policy_from_occlum
from casemate.types import ReportData, Secret, Sha384
from casemate.verify import VerifiedReport

SPEC = "release-policy"


def document_of(name):
    return PolicyDocument.parse(vectors.text(SPEC, name, "policy.toml"))


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_an_accepted_document_has_its_policies_and_secrets(name):
    case = vectors.load(SPEC, name)
    document = document_of(name)
    assert sorted(document.policies) == case["policies"]
    assert {name: list(names) for name, names in document.secrets.items()} == case["secrets"]
    assert PolicyDocument.parse(document.render()) == document


@pytest.mark.parametrize("name", vectors.names(SPEC, "refused-"))
def test_a_refused_document_is_refused_for_its_one_fault(name):
    with pytest.raises(CasemateError) as caught:
        document_of(name)
    assert caught.value.code == vectors.load(SPEC, name)["error"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "appraise-"))
def test_claims_meet_the_policies_and_free_the_secrets_that_they_should(name):
    case = vectors.load(SPEC, name)
    document = document_of(name)
    appraised = {}
    for policy_name, outcome in case["policies"].items():
        policy = document.policies[policy_name]
        if isinstance(outcome, int):
            appraised[policy_name] = appraise(
                policy, report_of(case), launch=launch_of(case), at=at_of(case)
            )
            assert appraised[policy_name].alternative == outcome
            continue
        with pytest.raises(NotAcceptableError) as caught:
            appraise(policy, report_of(case), launch=launch_of(case), at=at_of(case))
        found = caught.value.mismatches
        assert [(each.where, each.field, each.expected) for each in found] == [
            (f"{policy_name}[{item['alternative']}]", item["field"], item["expected"])
            for item in outcome
        ]
        for each, item in zip(found, outcome, strict=True):
            assert item["got"] in (None, each.got)
    assert [name for name in document.secrets if opens(document, name, appraised)] == (
        case["released"]
    )


def config_of(name):
    return vectors.text(SPEC, name, "occlum.json").encode()


@pytest.mark.parametrize("name", vectors.names(SPEC, "occlum-read-"))
def test_occlums_configuration_becomes_the_policy_that_it_should(name):
    read = policy_from_occlum(config_of(name)).document
    assert differences(document_of(name), read) == ()


@pytest.mark.parametrize("name", vectors.names(SPEC, "occlum-refused-"))
def test_what_is_not_occlums_configuration_is_refused(name):
    with pytest.raises(CasemateError) as caught:
        policy_from_occlum(config_of(name))
    assert caught.value.code == vectors.load(SPEC, name)["error"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)


def report_of(case):
    claims = {name: claim_of(value) for name, value in case["claims"].items()}
    nothing = ReportData(bytes(64))
    gpus = tuple(
        VerifiedReport(
            tee=Tee.NVIDIA, report_data=nothing,
            claims={name: claim_of(value) for name, value in gpu.items()},
        )
        for gpu in case.get("gpus", [])
    )  # fmt: skip
    return VerifiedReport(tee=Tee(case["tee"]), report_data=nothing, claims=claims, gpus=gpus)


def claim_of(value):
    match value:
        case {"hex": digits}:
            return bytes.fromhex(digits)
        case list():
            return tuple(value)
        case _:
            return value


def at_of(case):
    return datetime.datetime.fromisoformat(case["at"]) if "at" in case else None


def launch_of(case):
    return Sha384(bytes.fromhex(case["launch"])) if "launch" in case else None


def opens(document, name, appraised):
    store = SecretStore({secret: Secret(b"1") for secret in document.secrets}, document)
    try:
        return store.open(name, appraised) == Secret(b"1")
    except NotAcceptableError:
        return False
