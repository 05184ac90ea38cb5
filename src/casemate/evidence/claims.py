"""What evidence binds: the claims buffer, a deterministic CBOR map from text to byte strings.

Source: specs/attested-channel.md, "Claims buffer".
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.types import Nonce, ReportData, Sha256, Sha384, sha256

MAX_CLAIMS_SIZE = 1024
_HASH_SHA256 = 1  # IANA "Named Information Hash Algorithm" id


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What evidence binds.

    Args:
        pubkey_hash: SHA-256 of the DER SubjectPublicKeyInfo of the sender's TLS key.
        nonce: the verifier's challenge, or an attested channel's own value; None in certificates.
        launch: SHA-384 of the launch contract; None where the sender isn't a launcher.
    """

    pubkey_hash: Sha256
    nonce: Nonce | None = None
    launch: Sha384 | None = None


def encode_claims(claims: Claims) -> bytes:
    """The claims buffer."""
    buffer: dict[str, bytes] = {
        "pubkey-hash": encode_cbor([_HASH_SHA256, bytes(claims.pubkey_hash)])
    }
    if claims.nonce is not None:
        buffer["nonce"] = bytes(claims.nonce)
    if claims.launch is not None:
        buffer["launch"] = bytes(claims.launch)
    return encode_cbor(buffer)


def parse_claims(data: bytes) -> Claims:
    """Parse a claims buffer.

    Raises:
        MalformedError: it isn't deterministic, lacks ``pubkey-hash``, or has an unknown claim.

    Does not check: that evidence binds it (`bound_claims`).
    """
    fields = MapReader(
        decode_cbor(data, what="claims buffer", max_size=MAX_CLAIMS_SIZE), what="claims"
    )
    pubkey_hash = _parse_pubkey_hash(fields.take("pubkey-hash", bytes))
    nonce = fields.take_optional("nonce", bytes)
    launch = fields.take_optional("launch", bytes)
    fields.finish()
    return Claims(
        pubkey_hash=pubkey_hash,
        nonce=None if nonce is None else Nonce(nonce),
        launch=None if launch is None else Sha384(launch),
    )


def report_data_for(claims_buffer: bytes) -> ReportData:
    """The 64 bytes that evidence must carry to bind ``claims_buffer``."""
    return ReportData(sha256(claims_buffer) + bytes(32))


def _parse_pubkey_hash(data: bytes) -> Sha256:
    value = decode_cbor(data, what="pubkey-hash", max_size=128)
    match value:
        # The type is compared too: in Python, True equals 1.
        case [algorithm, bytes(digest)] if type(algorithm) is int and algorithm == _HASH_SHA256:
            return Sha256(digest)
    raise MalformedError(
        "claims.pubkey-hash",
        "the pubkey-hash is not [1, SHA-256]",
        field="pubkey-hash",
        expected="[1, 32 bytes]",
        got=data.hex(),
    )
