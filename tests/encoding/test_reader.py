"""The byte cursor: never past the end, and no rest unnoticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.encoding import ByteReader
from casemate.errors import MalformedError


def refusal(call):
    with pytest.raises(MalformedError) as caught:
        call()
    return caught.value


def test_fields_are_read_in_order():
    reader = ByteReader(b"\x01\x02\x00\x00\x00\x02magic\x00\x00rest", what="header")
    assert reader.uint(2, "little") == 0x0201
    assert reader.uint(4, "big", "big") == 2
    reader.expect(b"magic", "magic")
    reader.zeros(2, "reserved")
    assert reader.remaining == 4
    assert reader.take(4, "rest") == b"rest"
    reader.finish()


@given(st.binary(max_size=20), st.integers(-5, 40))
def test_a_read_gives_as_many_bytes_as_asked_or_is_an_error(data, length):
    reader = ByteReader(data, what="header")
    if 0 <= length <= len(data):
        assert reader.take(length, "f") == data[:length]
    else:
        error = refusal(lambda: reader.take(length, "f"))
        assert (error.code, error.field) == ("encoding.truncated", "f")
        assert reader.remaining == len(data)  # nothing was taken


def test_other_bytes_than_expected_are_refused():
    error = refusal(lambda: ByteReader(b"MAGIC", what="header").expect(b"magic", "magic"))
    assert (error.code, error.expected, error.got) == (
        "encoding.unexpected",
        b"magic".hex(),
        b"MAGIC".hex(),
    )


def test_reserved_bytes_must_be_zero():
    assert refusal(lambda: ByteReader(b"\0\1", what="header").zeros(2, "reserved")).code == (
        "encoding.unexpected"
    )


def test_bytes_after_the_end_are_refused():
    reader = ByteReader(b"ab", what="header")
    reader.take(1, "f")
    error = refusal(reader.finish)
    assert (error.code, error.got) == ("encoding.trailing", "1 bytes at offset 1")
