"""COSE_Sign1 (RFC 9052, section 4.2), as attestation formats use it: payload inside, one signer."""

from __future__ import annotations

from dataclasses import dataclass

import cbor2

from casemate.encoding.cbor import decode_foreign_cbor
from casemate.errors import MalformedError

SIGN1_TAG = 18
ES256, ES384, ES512 = -7, -35, -36
_ALGORITHM = 1
_SIZES = {ES256: 64, ES384: 96, ES512: 132}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A COSE_Sign1 message.

    Args:
        algorithm: `ES256`, `ES384` or `ES512`.
        payload: what was signed.
        signature: R and S, big-endian, one after the other.
        to_be_signed: the bytes that the signature covers.
    """

    algorithm: int
    payload: bytes
    signature: bytes
    to_be_signed: bytes


def parse_sign1(data: bytes, *, what: str, max_size: int) -> Sign1:
    """Parse a COSE_Sign1, tagged or not, without external data.

    Raises:
        MalformedError: it is none, or its algorithm isn't ECDSA.

    Does not check: the signature.
    """
    value = decode_foreign_cbor(data, what=what, max_size=max_size, tags={SIGN1_TAG})
    if isinstance(value, cbor2.CBORTag):
        value = value.value
    match value:
        case [bytes() as protected, unprotected, bytes() as payload, bytes() as signature]:
            pass
        case _:
            raise _malformed(what, "an array of four: COSE_Sign1", type(value).__name__)
    if not isinstance(unprotected, dict):
        raise _malformed(what, "a map of unprotected headers", type(unprotected).__name__)
    headers = decode_foreign_cbor(protected, what=f"{what}'s headers", max_size=256)
    if not isinstance(headers, dict) or set(headers) != {_ALGORITHM}:
        raise _malformed(what, "one protected header, the algorithm", str(headers)[:80])
    algorithm = headers[_ALGORITHM]
    if algorithm not in _SIZES:
        raise _malformed(what, "ES256, ES384 or ES512", str(algorithm)[:20])
    if len(signature) != _SIZES[algorithm]:
        raise _malformed(
            what, f"a signature of {_SIZES[algorithm]} bytes", f"{len(signature)} bytes"
        )
    return Sign1(
        algorithm=algorithm,
        payload=payload,
        signature=signature,
        to_be_signed=cbor2.dumps(["Signature1", protected, b"", payload]),
    )


def _malformed(what: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "encoding.cose", f"the {what} is not COSE_Sign1", field=what, expected=expected, got=got
    )
