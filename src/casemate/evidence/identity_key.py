"""Evidence of a peer without a TEE: a long-lived key's signature over the report data."""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import MapReader, decode_cbor, decode_ed25519_spki, encode_cbor
from casemate.errors import MalformedError
from casemate.types import ReportData

MAX_SIZE = 1024
SIGNATURE_SIZE = 64
SIGNATURE_CONTEXT = b"casemate-identity-key/1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityKeyReport:
    """A public key, and its signature over the context and the report data.

    Args:
        public_key: Ed25519 SubjectPublicKeyInfo, DER (44 bytes).
        report_data: what was signed.
        signature: Ed25519, 64 bytes.
    """

    public_key: bytes
    report_data: ReportData
    signature: bytes


def encode_identity_key_evidence(report: IdentityKeyReport) -> bytes:
    """The evidence as deterministic CBOR."""
    return encode_cbor(
        {
            "public-key": report.public_key,
            "report-data": bytes(report.report_data),
            "signature": report.signature,
        }
    )


def parse_identity_key_evidence(data: bytes) -> IdentityKeyReport:
    """Parse identity-key evidence.

    Raises:
        MalformedError: where it isn't what the specification says.

    Source: specs/simulated-evidence.md, "Identity-key evidence".
    Does not check: the signature, nor whether the key is the expected one.
    """
    fields = MapReader(
        decode_cbor(data, what="identity-key evidence", max_size=MAX_SIZE), what="evidence"
    )
    report = IdentityKeyReport(
        public_key=fields.take("public-key", bytes),
        report_data=ReportData(fields.take("report-data", bytes)),
        signature=fields.take("signature", bytes),
    )
    fields.finish()
    decode_ed25519_spki(report.public_key, field="public-key")
    if len(report.signature) != SIGNATURE_SIZE:
        raise MalformedError(
            "evidence.signature-length",
            "the signature has the wrong length",
            field="signature",
            expected=f"{SIGNATURE_SIZE} bytes",
            got=f"{len(report.signature)} bytes",
        )
    return report
