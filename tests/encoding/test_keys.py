"""Public keys: one key, one encoding, so that keys can be compared as bytes."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, x25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate.encoding import decode_ed25519_spki
from casemate.errors import MalformedError


def spki_of(private):
    return private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_an_ed25519_key_is_its_last_32_bytes():
    key = Ed25519PrivateKey.generate()
    assert decode_ed25519_spki(spki_of(key), field="key") == key.public_key().public_bytes_raw()


GOOD = spki_of(Ed25519PrivateKey.generate())


@pytest.mark.parametrize(
    "spki",
    [
        b"",
        GOOD[-32:],
        GOOD[:-1],
        GOOD + b"\0",
        b"\x30\x81" + GOOD[1:],  # the length in a longer form
        GOOD.replace(b"\x2b\x65\x70", b"\x2b\x65\x71"),
        spki_of(x25519.X25519PrivateKey.generate()),
        spki_of(ed448.Ed448PrivateKey.generate()),
        spki_of(ec.generate_private_key(ec.SECP256R1())),
    ],
    ids=["nothing", "raw", "cut", "longer", "BER", "Ed448's name", "X25519", "Ed448", "P-256"],
)
def test_any_other_key_or_form_is_malformed(spki):
    with pytest.raises(MalformedError) as caught:
        decode_ed25519_spki(spki, field="root")
    assert (caught.value.code, caught.value.field) == ("encoding.public-key", "root")
