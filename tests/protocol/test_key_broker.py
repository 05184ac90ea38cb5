"""The key broker's messages: what is asked for, all of it, in order, and no more than fits."""

import pytest

from casemate.errors import MalformedError
from casemate.protocol.key_broker import (
    MAX_MESSAGE,
    encode_refusal,
    encode_reply,
    encode_request,
    parse_refusal,
    parse_reply,
    parse_request,
)
from casemate.types import Secret


def test_a_launcher_gets_the_secrets_that_it_asked_for():
    names = ("image_key", "ssl_config")
    secrets = {"image_key": Secret(b"\x00\xff"), "ssl_config": Secret(b"")}

    assert parse_request(encode_request(names)) == names
    assert parse_reply(encode_reply(secrets), names=names) == secrets


@pytest.mark.parametrize(
    "names", [(), ("a", "a"), tuple(f"s{n}" for n in range(65))], ids=["none", "twice", "65"]
)
def test_a_request_names_each_of_1_to_64_secrets_once(names):
    with pytest.raises(MalformedError) as caught:
        parse_request(encode_request(names))
    assert caught.value.code == "key-broker.request"


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05abc", b"\x0a\x01\xff"])
def test_a_message_that_is_no_protobuf_is_malformed(data):
    with pytest.raises(MalformedError) as request:
        parse_request(data)
    with pytest.raises(MalformedError) as reply:
        parse_reply(data, names=("a",))
    assert (request.value.code, reply.value.code) == ("key-broker.request", "key-broker.reply")


@pytest.mark.parametrize("released", [(), ("b",), ("a",), ("b", "a"), ("a", "b", "c")])
def test_a_reply_with_other_secrets_than_were_asked_for_is_refused(released):
    reply = encode_reply({name: Secret(b"1") for name in released})
    with pytest.raises(MalformedError) as caught:
        parse_reply(reply, names=("a", "b"))
    assert caught.value.code == "key-broker.reply"


def test_secrets_that_do_not_fit_into_a_reply_are_refused_with_a_code_of_ours():
    secrets = {f"s{n}": Secret(bytes(1 << 20)) for n in range(MAX_MESSAGE >> 20)}
    with pytest.raises(MalformedError) as caught:
        encode_reply(secrets)
    assert caught.value.code == "key-broker.too-large"


def test_a_refusal_carries_code_and_correlation_id_and_nothing_else():
    assert parse_refusal(encode_refusal("store.refused", "00c0ffee")) == (
        "store.refused",
        "00c0ffee",
    )


@pytest.mark.parametrize(
    "details", ["", "store.refused", "store.refused 0 0", "No 0", "a 0\n", "a g", "a " + "0" * 33]
)
def test_status_details_of_another_form_are_no_refusal(details):
    assert parse_refusal(details) is None
