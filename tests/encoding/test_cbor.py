"""Deterministic CBOR: one value, one encoding, and no input that costs more than its length."""

import pytest

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError


def refusal(text):
    with pytest.raises(MalformedError) as caught:
        decode_cbor(bytes.fromhex(text), what="test", max_size=1 << 20)
    return caught.value


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a tagged item", "c000"),
        ("a list that holds itself", "d81c81d81d00"),
        ("a map that holds itself", "d81ca16161d81d00"),
        ("a reference to an earlier string", "d9010082616161d81900"),
        ("a regular expression", "d823622e2a"),
        ("an encoded item within an item", "d8184100"),
        ("an integer in a longer form", "1801"),
        ("a length in a longer form", "58016a"),
        ("an array without a length", "9fff"),
        ("a string without a length", "5f4100ff"),
        ("keys out of order", "a2616200616100"),
        ("a key twice", "a2616100616100"),
        ("a key that isn't text", "a10000"),
        ("a float", "f93c00"),
        ("undefined", "f7"),
        ("a simple value", "e0"),
        ("an integer of 65 bits", "3bffffffffffffffff"),
        ("text that isn't UTF-8", "61ff"),
        ("a byte after the end", "0000"),
        ("a cut item", "4401"),
        ("a reserved length", "1c"),
        ("nothing", ""),
        ("nesting without end", "81" * 100_000 + "00"),
        ("a count that the input can't hold", "9bffffffffffffffff"),
    ],
)
def test_what_is_not_deterministic_cbor_is_refused(what, text):
    assert refusal(text).code == "encoding.cbor", what


def test_lists_that_share_their_elements_do_not_multiply():
    # 15 levels of 1000 references each would be 1000^15 items.
    level = "d81c80"
    for index in range(15):
        level = "d81c9903e8" + level + f"d81d{index:02x}" * 999
    assert refusal(level).got == "a tag"


def test_too_large_an_input_is_refused_unread():
    with pytest.raises(MalformedError) as caught:
        decode_cbor(bytes(11), what="test", max_size=10)
    assert caught.value.code == "encoding.too-large"


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(1 << 63), (1 << 64) - 1, b"\xd8\x1c", "é", [], {}, [{"a": [b"", {"b": 1}]}]],
)
def test_what_is_encoded_decodes_to_itself(value):
    assert decode_cbor(encode_cbor(value), what="test", max_size=100) == value


def test_an_optional_field_that_is_null_is_not_taken_for_absent():
    fields = MapReader({"nonce": None}, what="test")
    with pytest.raises(MalformedError) as caught:
        fields.take_optional("nonce", bytes)
    assert caught.value.code == "encoding.field"
    assert MapReader({}, what="test").take_optional("nonce", bytes) is None
