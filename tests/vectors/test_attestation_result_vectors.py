"""The vectors of specs/attestation-result.md: our reader agrees with them."""

import datetime

import pytest
from tests.support import vectors

from casemate.errors import CasemateError
from casemate.evidence.detect import detect
from casemate.evidence.ear import parse_ear, result_claims
from casemate.verify.ear import verify_ear

SPEC = "attestation-result"


def read(name):
    case = vectors.load(SPEC, name)
    return verify_ear(
        token_of(name),
        keys=[bytes.fromhex(key) for key in case["keys"]],
        at=datetime.datetime.fromisoformat(case["at"]),
    )


def token_of(name):
    return (vectors.folder(SPEC) / name / "token.jwt").read_bytes()


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_what_a_reader_takes_from_a_result(name):
    report = read(name)
    found = {**report.claims, "report_data": bytes(report.report_data)}
    for claim, value in vectors.load(SPEC, name)["claims"].items():
        assert vectors.readable(found.get(claim)) == value, claim
    assert detect(token_of(name)) == "ear"


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_a_result_says_the_same_again(name):
    result = parse_ear(token_of(name)).result
    again = result_claims(result)
    assert again["submods"][result.attester]["ear_status"] == result.status
    assert set(again) >= {"eat_profile", "iat", "exp", "ear_verifier_id", "submods"}


@pytest.mark.parametrize("name", vectors.names(SPEC, "refused-"))
def test_a_refused_result_is_refused_for_its_one_fault(name):
    with pytest.raises(CasemateError) as caught:
        read(name)
    assert caught.value.code == vectors.load(SPEC, name)["error"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)
