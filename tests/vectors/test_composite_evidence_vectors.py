"""The vectors of specs/composite-evidence.md: our parser agrees with them."""

import pytest
from tests.support import vectors

from casemate.errors import MalformedError
from casemate.evidence.composite import encode_composite_evidence, parse_composite_evidence
from casemate.evidence.detect import detect

SPEC = "composite-evidence"


def data_of(name):
    return (vectors.folder(SPEC) / name / "evidence.cbor").read_bytes()


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_an_accepted_envelope_has_its_members_and_encodes_to_the_same_bytes(name):
    data = data_of(name)
    members = parse_composite_evidence(data)
    assert [
        {
            "tee": each.tee,
            "evidence": each.data.hex(),
            "endorsements": [item.hex() for item in each.endorsements],
        }
        for each in members
    ] == vectors.load(SPEC, name)["members"]
    assert encode_composite_evidence(members) == data
    assert detect(data) == "composite"


@pytest.mark.parametrize("name", vectors.names(SPEC, "refused-"))
def test_a_refused_envelope_is_refused_for_its_one_fault(name):
    with pytest.raises(MalformedError) as caught:
        parse_composite_evidence(data_of(name))
    assert caught.value.code == vectors.load(SPEC, name)["error"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)
