"""The public area of a TPM's key: what it is, and what the TPM lets it do.

Source: TCG, "TPM 2.0 Library", part 2 "Structures", revision 1.59: TPMT_PUBLIC (12.2.4),
TPMA_OBJECT (8.3), TPMS_RSA_PARMS, TPMS_ECC_PARMS (12.2.3). Part 1, 16: names. Big-endian.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate.encoding import ByteReader
from casemate.errors import MalformedError

RSA, ECC = 0x0001, 0x0023
SHA256 = 0x000B
NULL = 0x0010
AES = 0x0006
NIST_P256 = 0x0003
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
USER_WITH_AUTH, ADMIN_WITH_POLICY, NO_DA = 1 << 6, 1 << 7, 1 << 10
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
_ATTESTS = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN
_MAX_SIZE = 4096
_WITHOUT_HASH = {NULL, 0x0015}  # none, RSAES
_WITH_COUNT = {0x001A}  # ECDAA
_DEFAULT_EXPONENT = 65537


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmPublic:
    """TPMT_PUBLIC of an RSA or P-256 key whose name is a SHA-256.

    Args:
        attributes: TPMA_OBJECT.
        auth_policy: digest of the policy that its use needs, or nothing.
        key: the public key.
        area: the bytes that all of this stands in.
    """

    attributes: int
    auth_policy: bytes
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    area: bytes

    @property
    def name(self) -> bytes:
        """What other structures call the key: the hash algorithm, and the area's digest."""
        return SHA256.to_bytes(2, "big") + hashlib.sha256(self.area).digest()

    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return self.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def attests(self) -> bool:
        """Whether it was born in a TPM that never lets it go, and signs what a TPM says alone."""
        return self.attributes & (_ATTESTS | DECRYPT) == _ATTESTS


def parse_tpm_public(data: bytes) -> TpmPublic:
    """Parse a public area.

    Args:
        data: TPMT_PUBLIC, without a size before it.

    Raises:
        MalformedError: ``tpm.public``, ``encoding.*``.
    """
    if len(data) > _MAX_SIZE:
        raise _malformed("length", f"at most {_MAX_SIZE} bytes", f"{len(data)} bytes")
    r = ByteReader(data, what="TPM public area", byteorder="big")
    kind = r.uint(2, "type")
    if kind not in (RSA, ECC):
        raise _malformed("type", "RSA or ECC", f"{kind:#06x}")
    name_algorithm = r.uint(2, "nameAlg")
    if name_algorithm != SHA256:
        raise _malformed("nameAlg", "SHA-256", f"{name_algorithm:#06x}")
    attributes = r.uint(4, "objectAttributes")
    auth_policy = _sized(r, "authPolicy")
    if r.uint(2, "symmetric") != NULL:
        r.take(4, "symmetric key bits and mode")
    _scheme(r, "scheme")
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey
    try:
        key = _rsa(r) if kind == RSA else _ecc(r)
    except ValueError as error:
        raise _malformed("unique", "a public key", str(error)[:80]) from error
    r.finish()
    return TpmPublic(attributes=attributes, auth_policy=auth_policy, key=key, area=data)


def _rsa(r: ByteReader) -> rsa.RSAPublicKey:
    bits, exponent = r.uint(2, "keyBits"), r.uint(4, "exponent")
    modulus = _sized(r, "unique")
    if bits not in (2048, 3072, 4096) or len(modulus) * 8 != bits:
        raise _malformed("keyBits", "2048, 3072 or 4096, and a modulus of that size", str(bits))
    numbers = rsa.RSAPublicNumbers(exponent or _DEFAULT_EXPONENT, int.from_bytes(modulus, "big"))
    return numbers.public_key()


def _ecc(r: ByteReader) -> ec.EllipticCurvePublicKey:
    curve = r.uint(2, "curveID")
    if curve != NIST_P256:
        raise _malformed("curveID", "NIST P-256", f"{curve:#06x}")
    _scheme(r, "kdf")
    x, y = (int.from_bytes(_sized(r, f"unique.{name}"), "big") for name in "xy")
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def _scheme(r: ByteReader, field: str) -> None:
    algorithm = r.uint(2, field)
    if algorithm not in _WITHOUT_HASH:
        r.take(2, f"{field} hash")
    if algorithm in _WITH_COUNT:
        r.take(2, f"{field} count")


def _sized(r: ByteReader, field: str) -> bytes:
    return r.take(r.uint(2, f"{field} size"), field)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "tpm.public",
        f"the TPM's public area has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
