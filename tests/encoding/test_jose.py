"""Compact signatures: one form, one algorithm of few, nothing that changes what is signed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.encoding.jose import (
    compact,
    decode_base64url,
    decode_claims,
    encode_base64url,
    parse_jws,
    signing_input,
)
from casemate.errors import MalformedError

HEADER = {"alg": "ES256", "typ": "JWT", "kid": "k"}


def token(header=HEADER, payload=None, signature=b"\1" * 64):
    return compact(signing_input(header, payload or {"a": 1}), signature)


def raw(header: str, payload: str = '{"a":1}'):
    return compact(
        b".".join(encode_base64url(part.encode()).encode() for part in (header, payload)), b"\1"
    )


def parse(data):
    return parse_jws(data, what="token", max_size=4096)


def test_what_was_signed_is_kept_byte_by_byte():
    data = token()
    parsed = parse(data)
    assert (parsed.algorithm, parsed.key_id, parsed.media_type) == ("ES256", "k", "JWT")
    assert decode_claims(parsed, what="token") == {"a": 1}
    assert compact(parsed.signed, parsed.signature) == data


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"none"}',
        '{"alg":"HS256"}',
        '{"alg":"rs256"}',
        '{"alg":["RS256"]}',
        '{"typ":"JWT"}',
        '{"alg":"ES256","alg":"ES256"}',
        '{"alg":"ES256","crit":["b64"]}',
        '{"alg":"ES256","b64":false}',
        '{"alg":"ES256","zip":"DEF"}',
        '{"alg":"ES256","kid":1}',
        '["ES256"]',
        "{}x",
    ],
)
def test_headers_that_are_no_choice(header):
    with pytest.raises(MalformedError):
        parse(raw(header))


@pytest.mark.parametrize(
    "data",
    [
        token()[:-1] + b"=",
        token() + b".",
        token() + b"\n",
        token().replace(b".", b"..", 1),
        b"." + token(),
        token().rsplit(b".", 1)[0],
        token().rsplit(b".", 1)[0] + b".",
        token().replace(b".", b" .", 1),
        token()[:-1] + b"\xff",
        b"e31." + token().split(b".", 1)[1],
        b"x" * 5000,
    ],
)
def test_other_forms(data):
    with pytest.raises(MalformedError):
        parse(data)


def test_a_payload_with_a_key_twice_has_no_meaning():
    with pytest.raises(MalformedError, match="strict JSON"):
        decode_claims(parse(raw('{"alg":"ES256"}', '{"a":1,"a":2}')), what="token")
    with pytest.raises(MalformedError):
        decode_claims(parse(raw('{"alg":"ES256"}', "[1]")), what="token")


@given(st.binary(max_size=64))
def test_base64url_has_one_form(value):
    text = encode_base64url(value)
    assert decode_base64url(text, field="it") == value
    if len(value) % 3:
        last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        other = last[last.index(text[-1]) ^ 1]
        with pytest.raises(MalformedError):
            decode_base64url(text[:-1] + other, field="it")


@given(st.binary(max_size=200) | st.from_regex(rb"[A-Za-z0-9_-]{0,20}(\.[A-Za-z0-9_-]{0,20}){0,4}"))
def test_any_bytes(data):
    try:
        parsed = parse(data)
    except MalformedError:
        return
    assert compact(parsed.signed, parsed.signature) == data
    assert isinstance(
        json.loads(decode_base64url(parsed.signed.split(b".")[0].decode(), field="")), dict
    )
