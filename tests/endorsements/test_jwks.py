"""Key sets: one name a key, one key an entry, and no secret part."""

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate.encoding.jose import encode_base64url
from casemate.endorsements.collection import sort_endorsements
from casemate.errors import MalformedError
from casemate_testkit.tokens import TokenService

CERTIFIED, BARE = TokenService(), TokenService(certified=False)
RSA = json.loads(BARE.key_set())["keys"][0]
X5C = json.loads(CERTIFIED.key_set())["keys"][0]


def keys_of(*entries):
    content = json.dumps({"keys": entries}).encode()
    return sort_endorsements([("keys", content)]).token_keys


def test_keys_of_every_kind():
    on_curve, edwards = ec.generate_private_key(ec.SECP256R1()), Ed25519PrivateKey.generate()
    numbers = on_curve.public_key().public_numbers()
    point = {n: encode_base64url(v.to_bytes(32, "big")) for n, v in
             (("x", numbers.x), ("y", numbers.y))}  # fmt: skip
    raw = edwards.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    found = keys_of(
        RSA,
        {"kid": "2", "kty": "EC", "crv": "P-256", **point},
        {"kid": "3", "kty": "OKP", "crv": "Ed25519", "x": encode_base64url(raw)},
        {**X5C, "kid": "4"},
    )
    assert [key.key_id for key in found] == ["key-1", "2", "3", "4"]
    keys = (BARE.key, on_curve, edwards, CERTIFIED.key)
    assert [key.spki for key in found] == [
        each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in keys
    ]
    assert found[3].certificate is not None


def test_numbers_and_certificate_of_one_key_agree():
    numbers = CERTIFIED.key.public_key().public_numbers()
    n = encode_base64url(numbers.n.to_bytes(256, "big"))
    (key,) = keys_of({**X5C, "n": n, "e": "AQAB"})
    assert key.certificate is not None
    with pytest.raises(MalformedError, match="numbers and certificate"):
        keys_of({**X5C, "n": RSA["n"], "e": "AQAB"})


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ([RSA, RSA], "a kid twice"),
        ([{**RSA, "d": "AQ"}], "a secret part"),
        ([{"kty": "oct", "kid": "1", "k": "AQ"}], "a secret part"),
        ([{"kty": "oct", "kid": "1"}], "RSA, EC on P-256 or Ed25519"),
        ([{"kty": "EC", "crv": "P-384", "kid": "1"}], "RSA, EC on P-256 or Ed25519"),
        ([{"kty": "RSA", "kid": "1"}], "neither"),
        ([{**RSA, "kid": ""}], "1 to 256"),
        ([{name: value for name, value in RSA.items() if name != "kid"}], "1 to 256"),
        ([{**RSA, "e": "AA"}], "numbers that are none"),
        ([{**RSA, "n": RSA["n"] + "="}], "base64url"),
        ([{**RSA, "n": base64.b64encode(bytes(2048)).decode().rstrip("=")}], "8192 bits"),
        ([{**X5C, "x5c": []}], "some certificates"),
        ([{**X5C, "x5c": ["????"]}], "base64"),
        ([{**X5C, "x5c": ["AAAA"]}], "certificate"),
        ([1], "an object"),
        ([], "1 to 64"),
        ([{**RSA, "kid": str(n)} for n in range(65)], "1 to 64"),
    ],
)
def test_sets_that_are_none(entries, reason):
    with pytest.raises(MalformedError) as caught:
        keys_of(*entries)
    assert reason in f"{caught.value}"
