"""Values that every floor shares: what they refuse, and what they don't show."""

import copy
import json
import pickle

import pytest

from casemate.errors import MalformedError
from casemate.types import Nonce, ReportData, Secret, Sha256, Sha384, sha256, sha384

CANARY = b"canary-4410"


@pytest.mark.parametrize(
    ("kind", "length"), [(Sha256, 32), (Sha384, 48), (Nonce, 32), (ReportData, 64)]
)
def test_a_fixed_length_value_has_its_length_or_is_malformed(kind, length):
    assert kind(bytes(length)) == bytes(length)
    for wrong in (0, length - 1, length + 1):
        with pytest.raises(MalformedError) as caught:
            kind(bytes(wrong))
        assert caught.value.code == "types.length"
        assert (caught.value.expected, caught.value.got) == (f"{length} bytes", f"{wrong} bytes")


def test_a_digest_shows_itself_in_hex():
    digest = sha256(b"")
    assert str(digest) == f"{digest}" == digest.hex()
    assert repr(digest) == f"Sha256({digest.hex()})"
    assert str(digest).startswith("e3b0c44298fc1c14")
    assert str(sha384(b"")).startswith("38b060a751ac9638")


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda s: f"{s!s:>40}"])
def test_a_secret_does_not_show_itself(show):
    secret = Secret(CANARY)
    for holder in (secret, [secret], {"key": secret}, (secret,)):
        assert "canary" not in show(holder)
    assert "11 bytes" in show(secret)


def test_a_secret_can_not_be_written_out_by_accident():
    secret = Secret(CANARY)
    for write in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps, hash, bytes):
        with pytest.raises(TypeError):
            write(secret)
    assert not hasattr(secret, "__dict__")  # what debuggers and loggers print
    assert len(secret) == len(CANARY)


def test_secrets_are_equal_by_value_and_never_equal_to_bytes():
    assert Secret(CANARY) == Secret(bytearray(CANARY))
    assert Secret(CANARY) != Secret(CANARY + b"\0")
    assert Secret(CANARY) != CANARY


def test_a_secret_keeps_its_own_bytes():
    given = bytearray(CANARY)
    secret = Secret(given)
    given[:] = bytes(len(given))
    assert secret.reveal() == CANARY
