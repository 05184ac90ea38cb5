"""Signature files: names and aliases, and every way to get them wrong."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.serving.dtypes import BY_ONNX
from casemate.serving.signature import TensorSpec, default_signatures, parse_signatures


def spec(name, onnx, *shape):
    return TensorSpec(name=name, element=BY_ONNX[f"tensor({onnx})"], shape=shape)


INPUTS = {"pixels": spec("pixels", "float", None, 8, 8, 3)}
OUTPUTS = {
    "p": spec("p", "float", None, 2),
    "names": spec("names", "string", None, 2),
    "value": spec("value", "float", None, 1),
}


def parse(**signatures):
    content = json.dumps({"format": 1, "signatures": signatures}).encode()
    return parse_signatures(content, INPUTS, OUTPUTS)


def test_without_a_file_every_name_is_the_models():
    signature = default_signatures(INPUTS, OUTPUTS)["serving_default"]
    assert signature.method == "predict"
    assert set(signature.inputs) == {"pixels"}
    assert set(signature.outputs) == {"p", "names", "value"}


def test_aliases_stand_for_the_models_names():
    signatures = parse(serving_default={"inputs": {"x": "pixels"}, "outputs": {"y": "p", "z": "p"}})

    signature = signatures["serving_default"]
    assert signature.inputs["x"].tensor.name == "pixels"
    assert signature.inputs["x"].spec.name == "x"
    assert {alias: port.tensor.name for alias, port in signature.outputs.items()} == {
        "y": "p", "z": "p",
    }  # fmt: skip


def test_a_picture_is_a_string_outside_and_the_models_tensor_inside():
    picture = {"resize": "crop", "scale": 0.5, "mean": [1, 2, 3], "std": [1, 1, 2]}
    signature = parse(s={"inputs": {"x": {"tensor": "pixels", "picture": picture}}})["s"]

    port = signature.inputs["x"]
    assert str(port.spec) == "DT_STRING [?]"
    assert (port.picture.height, port.picture.width, port.picture.crop) == (8, 8, True)
    assert port.picture.std == (1, 1, 2)


def test_classification_and_regression_name_their_outputs():
    signatures = parse(
        c={"method": "classify", "outputs": {"scores": "p"}, "classes": ["cat", "dog"]},
        both={"method": "classify", "outputs": {"scores": "p", "classes": "names"}},
        r={"method": "regress", "outputs": {"outputs": "value"}},
    )
    assert signatures["c"].classes == ("cat", "dog")
    assert signatures["r"].method == "regress"


@pytest.mark.parametrize(
    ("signature", "field"),
    [
        ([], "signatures.s"),
        ({"wish": 1}, "signatures.s"),
        ({"method": "guess"}, "signatures.s.method"),
        ({"method": 1}, "signatures.s.method"),
        ({"inputs": {}}, "signatures.s.inputs"),
        ({"inputs": {"x": "p"}}, "signatures.s.inputs.x"),
        ({"inputs": {"x": "pixels", "y": "pixels"}}, "signatures.s.inputs"),
        ({"inputs": {"": "pixels"}}, "signatures.s.inputs."),
        ({"outputs": {"y": "q"}}, "signatures.s.outputs.y"),
        ({"outputs": {"y": {"tensor": "p"}}}, "signatures.s.outputs.y"),
        ({"inputs": {"x": {"tensor": "pixels", "picture": {"resize": "fold"}}}},
         "signatures.s.inputs.x.picture.resize"),
        ({"inputs": {"x": {"tensor": "pixels", "picture": {"scale": True}}}},
         "signatures.s.inputs.x.picture.scale"),
        ({"inputs": {"x": {"tensor": "pixels", "picture": {"mean": [1, 2]}}}},
         "signatures.s.inputs.x.picture.mean"),
        ({"inputs": {"x": {"tensor": "pixels", "picture": {"std": [1, 0, 1]}}}},
         "signatures.s.inputs.x.picture.std"),
        ({"method": "classify", "outputs": {"scores": "names"}}, "signatures.s.outputs"),
        ({"method": "classify"}, "signatures.s.outputs"),
        ({"method": "regress", "outputs": {"value": "value"}}, "signatures.s.outputs"),
        ({"classes": ["cat", "dog"]}, "signatures.s.classes"),
        ({"method": "classify", "outputs": {"scores": "p"}, "classes": ["cat"]},
         "signatures.s.classes"),
        ({"method": "classify", "outputs": {"scores": "p"}, "classes": ["cat", 1]},
         "signatures.s.classes"),
    ],
)  # fmt: skip
def test_a_signature_that_breaks_a_rule_is_refused(signature, field):
    with pytest.raises(MalformedError) as caught:
        parse(s=signature)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"\xff", b'{"format": 1}', b'{"format": 2, "signatures": {"s": {}}}',
        b'{"format": true, "signatures": {"s": {}}}', b'{"format": 1, "signatures": {}}',
        b'{"format": 1, "format": 1, "signatures": {"s": {}}}',
        b'{"format": 1, "signatures": {"s": {}}, "x": NaN}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_that_is_not_one_is_refused(content):
    with pytest.raises(MalformedError):
        parse_signatures(content, INPUTS, OUTPUTS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["p", "pixels", "x"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["format", "signatures", "s", "method", "inputs", "outputs", "classes", "tensor",
             "picture", "scale", "mean", "std", "resize", "scores"]
        ),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_anything_is_signatures_or_malformed(value):
    document = {"format": 1, "signatures": {"s": value}}
    try:
        signatures = parse_signatures(json.dumps(document).encode(), INPUTS, OUTPUTS)
    except MalformedError:
        return
    assert set(signatures) == {"s"}
