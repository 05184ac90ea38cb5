"""The one binding rule: evidence binds a claims buffer, and the claims buffer binds the rest.

The rule is that of the interoperable RA-TLS (DESIGN: "One binding rule"): report data is the
SHA-256 of the claims buffer, then zeros; the claims buffer is a deterministic CBOR map from text
to byte strings. Certificates, attested channels and challenges all use it.

Source: specs/attested-channel.md, "Claims buffer".
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError, NotGenuineError
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


def bound_claims(
    claims_buffer: bytes, *, report_data: ReportData, spki: bytes, nonce: Nonce | None
) -> Claims:
    """The claims, once evidence, public key and nonce are all seen to be bound.

    Args:
        claims_buffer: as received.
        report_data: from *verified* evidence.
        spki: DER SubjectPublicKeyInfo of the key that the sender proved to hold.
        nonce: the value that makes it fresh; None only where freshness can't be had, and then
            the claims must carry none.

    Raises:
        MalformedError: the claims buffer can't be parsed.
        NotGenuineError: ``binding.report-data``, ``binding.public-key``, ``binding.nonce``.
    """
    # 1. The evidence binds this claims buffer and no other.
    _require_equal(
        "binding.report-data", "report data", report_data_for(claims_buffer), report_data
    )
    claims = parse_claims(claims_buffer)
    # 2. The claims bind the key that signed the handshake.
    _require_equal("binding.public-key", "pubkey-hash", sha256(spki), claims.pubkey_hash)
    # 3. The claims are of this very exchange.
    _require_equal("binding.nonce", "nonce", nonce or b"", claims.nonce or b"")
    return claims


def _require_equal(code: str, field: str, expected: bytes, got: bytes) -> None:
    if not hmac.compare_digest(expected, got):
        raise NotGenuineError(
            code,
            f"the evidence doesn't bind this peer: its {field} is of something else",
            field=field,
            expected=expected.hex() or "none",
            got=got.hex() or "none",
            remedy="Somebody may stand between the two sides, or replay evidence: don't go on.",
        )


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
