"""Verify a JSON Web Signature under a key that the caller chose.

The key decides which algorithm is right, and the token must name exactly that one: a token can't
have its own signature read as something else.

Source: RFC 7515, section 5.2; RFC 7518, sections 3.3 and 3.4; RFC 8037, section 3.1.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from casemate.encoding.jose import Jws
from casemate.errors import NotGenuineError

_MIN_RSA_BITS = 2048


def verify_jws(jws: Jws, spki: bytes, *, what: str) -> None:
    """Verify the signature.

    Args:
        jws: parsed.
        spki: the signer's SubjectPublicKeyInfo, DER.
        what: whose token, for codes: ``maa``.

    Raises:
        NotGenuineError: ``WHAT.algorithm`` where the token names another than the key's,
            ``WHAT.key`` for a weak key or one of another kind, ``WHAT.signature``.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _refusal(what, "key", "a public key", "something else") from error
    match key:
        case rsa.RSAPublicKey():
            right = "RS256"
            if key.key_size < _MIN_RSA_BITS:
                raise _refusal(what, "key", f"at least {_MIN_RSA_BITS} bits", f"{key.key_size}")
        case ec.EllipticCurvePublicKey() if isinstance(key.curve, ec.SECP256R1):
            right = "ES256"
        case Ed25519PublicKey():
            right = "EdDSA"
        case _:
            raise _refusal(what, "key", "RSA, EC on P-256 or Ed25519", type(key).__name__)
    if jws.algorithm != right:
        raise _refusal(what, "algorithm", f"{right}, as its signer's key has it", jws.algorithm)
    try:
        match key:
            case rsa.RSAPublicKey():
                key.verify(jws.signature, jws.signed, padding.PKCS1v15(), hashes.SHA256())
            case Ed25519PublicKey():
                key.verify(jws.signature, jws.signed)
            case ec.EllipticCurvePublicKey():
                if len(jws.signature) != 64:
                    raise InvalidSignature
                r, s = (int.from_bytes(half, "big") for half in _halves(jws.signature))
                key.verify(encode_dss_signature(r, s), jws.signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise _refusal(what, "signature", "a signature by that key", "another") from error


def _halves(signature: bytes) -> tuple[bytes, bytes]:
    return signature[:32], signature[32:]


def _refusal(what: str, code: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        f"{what}.{code}",
        f"the {code} of the token isn't what its signer's key asks for",
        field=code,
        expected=expected,
        got=got,
        remedy="Nothing can repair it: the token was changed, or somebody else signed it.",
    )
