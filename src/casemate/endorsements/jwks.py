"""Keys of those who sign tokens: a JSON Web Key Set.

Source: RFC 7517; RFC 7518, section 6; RFC 8037, section 2. A key stands there as numbers, as a
certificate (``x5c``, of which the first counts), or as both, which must then agree.
Does not check: whose keys they are. Whoever gives the file vouches for that.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate.encoding import JsonValue
from casemate.encoding.jose import decode_base64url
from casemate.endorsements.certificates import MAX_CERTIFICATES, load_certificate
from casemate.errors import MalformedError

_MAX_KEYS = 64
_MAX_RSA_BYTES = 1024
_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """A key that signs tokens.

    Args:
        key_id: the name by which a token refers to it.
        spki: SubjectPublicKeyInfo, DER.
        certificate: that the set has for it, if any.
    """

    key_id: str
    spki: bytes
    certificate: x509.Certificate | None = None


def parse_jwks(value: Mapping[str, JsonValue], *, what: str) -> tuple[TokenKey, ...]:
    """Read a key set.

    Args:
        value: the decoded JSON object, with ``keys``.
        what: what it is, for messages.

    Raises:
        MalformedError: ``endorsements.key-set``; also where two keys have one name, or a private
            key stands there.
    """
    entries = value.get("keys")
    if not isinstance(entries, list) or not 0 < len(entries) <= _MAX_KEYS:
        raise _malformed(f"{what}.keys", f"1 to {_MAX_KEYS} keys", type(entries).__name__)
    keys = tuple(_key(entry, f"{what}.keys[{index}]") for index, entry in enumerate(entries))
    if len({key.key_id for key in keys}) != len(keys):
        raise _malformed(f"{what}.keys", "names that differ", "a kid twice")
    return keys


def _key(entry: JsonValue, where: str) -> TokenKey:
    if not isinstance(entry, dict):
        raise _malformed(where, "an object", type(entry).__name__)
    if found := [name for name in _PRIVATE if name in entry]:
        raise _malformed(where, "a public key", f"a secret part, {found[0]}")
    key_id = entry.get("kid")
    if not isinstance(key_id, str) or not 0 < len(key_id) <= 256:
        raise _malformed(f"{where}.kid", "a text of 1 to 256 characters", type(key_id).__name__)
    certificate = _certificate(entry, where) if "x5c" in entry else None
    stated = _numbers(entry, where)
    if certificate is not None:
        certified = _spki(certificate.public_key(), where)
        if stated not in (None, certified):
            raise _malformed(where, "one key", "numbers and certificate of different keys")
        return TokenKey(key_id=key_id, spki=certified, certificate=certificate)
    if stated is None:
        raise _malformed(where, "a key, as numbers or certificate", "neither")
    return TokenKey(key_id=key_id, spki=stated)


def _certificate(entry: Mapping[str, JsonValue], where: str) -> x509.Certificate:
    chain = entry.get("x5c")
    if not isinstance(chain, list) or not 0 < len(chain) <= MAX_CERTIFICATES:
        raise _malformed(f"{where}.x5c", "some certificates", type(chain).__name__)
    try:
        der = base64.b64decode(str(chain[0]), validate=True)
    except (ValueError, binascii.Error) as error:
        raise _malformed(f"{where}.x5c", "base64", "something else") from error
    return load_certificate(der, what=f"{where}.x5c")


def _numbers(entry: Mapping[str, JsonValue], where: str) -> bytes | None:
    def part(name: str) -> bytes:
        value = entry.get(name)
        if not isinstance(value, str):
            raise _malformed(f"{where}.{name}", "a text", type(value).__name__)
        return decode_base64url(value, field=f"{where}.{name}")

    try:
        match entry.get("kty"), entry.get("crv"):
            case "RSA", None:
                if "n" not in entry and "e" not in entry:
                    return None
                modulus, exponent = part("n"), part("e")
                if len(modulus) > _MAX_RSA_BYTES or len(exponent) > 8:
                    raise _malformed(where, f"at most {8 * _MAX_RSA_BYTES} bits", "more")
                numbers = rsa.RSAPublicNumbers(
                    int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
                )
                return _spki(numbers.public_key(), where)
            case "EC", "P-256":
                x, y = (int.from_bytes(part(name), "big") for name in ("x", "y"))
                point = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1())
                return _spki(point.public_key(), where)
            case "OKP", "Ed25519":
                return _spki(Ed25519PublicKey.from_public_bytes(part("x")), where)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _malformed(where, "a public key", "numbers that are none") from error
    raise _malformed(where, "RSA, EC on P-256 or Ed25519", str(entry.get("kty"))[:32])


def _spki(key: object, where: str) -> bytes:
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey):
        raise _malformed(where, "RSA, EC or Ed25519", type(key).__name__)
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.key-set",
        f"the key set is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
    )
