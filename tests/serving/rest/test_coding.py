"""Compressed bodies: pieces of a bounded size, or the one error."""

import contextlib
import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.serving.rest.coding import PIECE_BYTES, Unpacker


def unpacked(*parts, coding=b"gzip"):
    unpacker = Unpacker(coding)
    pieces = [piece for part in parts for piece in unpacker.pieces(part)]
    unpacker.end()
    assert all(len(piece) <= PIECE_BYTES for piece in pieces)
    return b"".join(pieces)


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_what_was_packed_comes_out_however_it_arrives(content, cut):
    packed = gzip.compress(content)
    assert unpacked(packed[:cut], packed[cut:]) == content
    assert unpacked(zlib.compress(content), coding=b"Deflate") == content


@given(st.binary(max_size=300))
def test_anything_else_is_malformed(content):
    with contextlib.suppress(MalformedError):
        unpacked(b"\x1f\x8b\x08\x00" + content)


def test_it_stops_where_its_reader_does():
    """Of ten megabytes that a few thousand bytes stand for, no more than a piece is made."""
    packed = gzip.compress(bytes(10 << 20))
    assert len(next(Unpacker(b"gzip").pieces(packed))) == PIECE_BYTES


@pytest.mark.parametrize("coding", [b"br", b"", b"gzip, gzip", b"zstd"])
def test_another_coding_is_not_known(coding):
    with pytest.raises(KeyError):
        Unpacker(coding)
