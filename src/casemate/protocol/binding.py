"""The one binding rule: evidence binds a claims buffer, and the claims buffer binds the rest.

The rule is that of the interoperable RA-TLS (DESIGN: "One binding rule"): report data is the
SHA-256 of the claims buffer, then zeros. Certificates, attested channels and challenges all use it.

Source: specs/attested-channel.md, "Claims buffer".
"""

from __future__ import annotations

import hmac

from casemate.errors import NotGenuineError
from casemate.evidence.claims import Claims, encode_claims, parse_claims, report_data_for
from casemate.types import Nonce, ReportData, sha256

__all__ = ["Claims", "bound_claims", "encode_claims", "parse_claims", "report_data_for"]


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
