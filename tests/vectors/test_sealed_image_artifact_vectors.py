"""The vectors of specs/sealed-image-artifact.md: our parser agrees with them."""

import pytest
from tests.support import vectors

from casemate.errors import CasemateError
from casemate.image.artifact import encode_manifest, parse_manifest

SPEC = "sealed-image-artifact"


def manifest_of(name):
    return vectors.text(SPEC, name, "manifest.json").encode()


@pytest.mark.parametrize("name", vectors.names(SPEC, "accepted-"))
def test_an_accepted_manifest_promises_a_blob_and_an_id(name):
    case, data = vectors.load(SPEC, name), manifest_of(name)
    blob, image_id = parse_manifest(data)
    assert (blob.digest, blob.size, str(image_id)) == (case["digest"], case["size"], case["id"])
    assert (encode_manifest(blob, image_id) == data) is case["canonical"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "refused-"))
def test_a_refused_manifest_is_refused_for_its_one_fault(name):
    with pytest.raises(CasemateError) as caught:
        parse_manifest(manifest_of(name))
    assert caught.value.code == vectors.load(SPEC, name)["error"]


def test_the_vectors_are_what_their_generator_makes():
    assert vectors.stored(SPEC) == vectors.generated(SPEC)
