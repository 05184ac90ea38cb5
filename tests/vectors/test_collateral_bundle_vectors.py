"""The vectors of specs/collateral-bundle.md: our reader and writer agree with them."""

import datetime

import pytest
from tests.support import vectors

from casemate.collateral.bundle import open_bundle
from casemate.errors import CasemateError

SPEC = "collateral-bundle"


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-", "refused-"))
def test_a_bundle_is_read_or_refused_for_its_one_fault(name):
    case = vectors.load(SPEC, name)
    data, keys = bytes.fromhex(case["bundle"]), [bytes.fromhex(each) for each in case["keys"]]
    at = datetime.datetime.fromtimestamp(case["at"], datetime.UTC)
    if "error" in case:
        with pytest.raises(CasemateError) as caught:
            open_bundle(data, keys=keys, at=at)
        assert caught.value.code == case["error"]
        return
    opened = open_bundle(data, keys=keys, at=at)
    assert {
        "created": opened.created.timestamp(),
        "expires": opened.expires.timestamp(),
        "names": list(opened.entries),
    } == case["accepted"]


def test_the_vectors_are_what_their_generator_makes():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)
