"""JSON: no duplicate keys, no numbers that JSON doesn't know, bounded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.encoding import decode_json
from casemate.errors import MalformedError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda items: st.lists(items) | st.dictionaries(st.text("abc"), items),
    max_leaves=10,
)  # fmt: skip


@given(VALUES)
def test_what_is_encoded_decodes(value):
    assert decode_json(json.dumps(value).encode(), what="test", max_size=1 << 20) == value


@given(st.binary())
def test_any_bytes_give_a_value_or_are_malformed(data):
    try:
        value = decode_json(data, what="test", max_size=1 << 20)
    except MalformedError:
        return
    assert json.loads(data) == value


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("a key twice", b'{"a": 1, "a": 1}'),
        ("a key twice, deep", b'[{"b": {"a": 1, "\\u0061": 2}}]'),
        ("no number", b"NaN"),
        ("no finite number", b"[-Infinity]"),
        ("a comma at the end", b"[1,]"),
        ("a comment", b"{} // no"),
        ("two values", b"{} {}"),
        ("nothing", b""),
        ("a mark of the byte order", b"\xef\xbb\xbf{}"),
        ("UTF-16", '{"a": 1}'.encode("utf-16-le")),
        ("no UTF-8", b'"\xff"'),
        ("nesting without end", b"[" * 100_000),
        ("a number of 5000 digits", b"1" * 5000),
        ("half a character", b'["\\udafb"]'),
        ("half a character, as a key", b'{"\\udafb": 1}'),
    ],
)
def test_what_is_not_strict_json_is_malformed(what, text):
    with pytest.raises(MalformedError) as caught:
        decode_json(text, what="config", max_size=1 << 20)
    assert (caught.value.code, caught.value.field) == ("encoding.json", "config"), what


def test_too_large_an_input_is_refused_unread():
    with pytest.raises(MalformedError) as caught:
        decode_json(b" " * 10 + b"1", what="config", max_size=10)
    assert caught.value.code == "encoding.too-large"
