"""The vectors of specs/sealed-model.md: our digests and headers agree with them."""

import pytest
from tests.support import vectors

from casemate.errors import CasemateError
from casemate.image.model import safetensors
from casemate.image.model.folder import WeightFile, weights_digest

SPEC = "sealed-model"


@pytest.mark.parametrize("name", vectors.names(SPEC, "digest-"))
def test_the_digest_of_the_weights(name):
    case = vectors.load(SPEC, name)
    files = {
        path: WeightFile(kind="onnx", size=each["size"], sha256=bytes.fromhex(each["sha256"]))
        for path, each in case["files"].items()
    }
    assert weights_digest(files).hex() == case["weights"]
    assert weights_digest(dict(reversed(files.items()))).hex() == case["weights"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "safetensors-"))
def test_a_header_is_taken_or_refused(name):
    data = (vectors.folder(SPEC) / name / "model.safetensors").read_bytes()
    error = vectors.load(SPEC, name)["error"]

    def check():
        size = safetensors.header_size(data[:8], len(data))
        return safetensors.check_header(data[8 : 8 + size], len(data) - 8 - size)

    if error is None:
        assert check() == 2
        return
    with pytest.raises(CasemateError) as caught:
        check()
    assert caught.value.code == error


def test_the_vectors_are_what_their_generator_makes():
    assert vectors.stored(SPEC) == vectors.generated(SPEC)
