"""Hexadecimal and base64: one value, one text, and none of Python's leniency."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.encoding import decode_base64, decode_hex
from casemate.errors import MalformedError


@given(st.binary())
def test_what_is_encoded_decodes(data):
    assert decode_hex(data.hex(), field="f") == data
    assert decode_hex(data.hex().upper(), field="f") == data
    assert decode_hex(data.hex(), field="f", length=len(data)) == data
    assert decode_base64(base64.b64encode(data).decode(), field="f") == data


@given(st.text())
def test_any_text_has_one_encoding_or_is_malformed(text):
    for decode, encode in (
        (decode_hex, lambda data: data.hex()),
        (decode_base64, lambda data: base64.b64encode(data).decode()),
    ):
        try:
            data = decode(text, field="f")
        except MalformedError:
            continue
        assert encode(data) == (text.lower() if decode is decode_hex else text)


@pytest.mark.parametrize(
    "text", ["0", "0g", " 00", "00 ", "00 00", "00\n", "0x00", "-1", "٠٠", "００", "_0", "0_0"]
)
def test_what_python_might_take_for_hex_is_malformed(text):
    with pytest.raises(MalformedError) as caught:
        decode_hex(text, field="pin")
    assert (caught.value.code, caught.value.field) == ("encoding.hex", "pin")


@pytest.mark.parametrize("text", ["", "00", "0" * 62, "0" * 66])
def test_hex_of_another_length_is_malformed(text):
    with pytest.raises(MalformedError) as caught:
        decode_hex(text, field="digest", length=32)
    assert caught.value.expected == "64 hex digits"


@pytest.mark.parametrize(
    "text",
    [
        "AA",  # no padding
        "AA=",
        "AAA==",
        "A===",
        "====",
        "AB==",  # bits after the end that aren't zero
        "AAB=",
        "AA==AA==",
        "AA==\n",
        " AAAA",
        "AA AA",
        "-_AA",  # the alphabet of URLs
        "АAAA",  # a Cyrillic letter
    ],
)
def test_what_python_might_take_for_base64_is_malformed(text):
    with pytest.raises(MalformedError) as caught:
        decode_base64(text, field="image_key")
    assert (caught.value.code, caught.value.field) == ("encoding.base64", "image_key")
