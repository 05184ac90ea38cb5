"""Public areas of TPM keys: a value or `MalformedError`, and which keys attest."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from casemate.errors import MalformedError
from casemate.evidence.tpm_public import parse_tpm_public

X, Y = (
    bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"),
    bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"),
)  # the generator of P-256
ATTESTING = "00050472"


def area(
    kind="0023", name="000b", attributes=ATTESTING, policy="0000", symmetric="0010",
    scheme="0018000b", curve="0003", kdf="0010", x=b"\0\x20" + X, y=b"\0\x20" + Y, rest=b"",
):  # fmt: skip
    head = "".join((kind, name, attributes, policy, symmetric, scheme, curve, kdf))
    return bytes.fromhex(head) + x + y + rest


def rsa(bits="0800", exponent="00000000", modulus=b"\xff" * 256):
    head = bytes.fromhex("0001000b" + ATTESTING + "000000100014000b" + bits + exponent)
    return head + len(modulus).to_bytes(2, "big") + modulus


def test_an_attestation_key():
    public = parse_tpm_public(area())
    assert public.attests
    assert public.key.public_numbers().x == int.from_bytes(X, "big")
    assert public.name[:2] == b"\0\x0b"
    assert len(public.name) == 34
    assert parse_tpm_public(rsa()).key.public_numbers().e == 65537


@pytest.mark.parametrize("attributes", ["00040472", "00070472", "00050470", "00050462", "00050452"])
def test_a_key_that_could_sign_anything_or_leave_attests_nothing(attributes):
    assert not parse_tpm_public(area(attributes=attributes)).attests


FAULTS = {
    "a symmetric key": area(kind="0025"),
    "a name by SHA-1": area(name="0004"),
    "another curve": area(curve="0004"),
    "a point off the curve": area(x=b"\0\x20" + Y),
    "cut short": area()[:-1],
    "bytes behind": area(rest=b"\0"),
    "a short RSA key": rsa(bits="0400", modulus=b"\xff" * 128),
    "a modulus of another size": rsa(modulus=b"\xff" * 255),
    "an even exponent": rsa(exponent="00000002"),
    "too large": bytes(5000),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_is_enough(fault):
    with pytest.raises(MalformedError):
        parse_tpm_public(FAULTS[fault])


@given(st.binary(max_size=120) | st.builds(bytes.__add__, st.just(area()[:20]), st.binary()))
def test_anything_is_parsed_or_malformed(data):
    with contextlib.suppress(MalformedError):
        assert parse_tpm_public(data).area == data
