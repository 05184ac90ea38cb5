"""Simulated and identity-key evidence made step by step from the specification.

Written apart from ``casemate.tee`` on purpose: what both make must be the same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SIMULATED_CONTEXT = b"casemate-simulated-evidence/1\0"
IDENTITY_CONTEXT = b"casemate-identity-key/1\0"


class Signer:
    """An Ed25519 key whose private bytes are the SHA-256 of a label."""

    def __init__(self, label: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label).digest())
        self.spki = self._key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def identity_key_evidence(self, report_data: bytes) -> bytes:
        return cbor2.dumps(self.identity_key_fields(report_data), canonical=True)

    def identity_key_fields(self, report_data: bytes) -> dict[str, Any]:
        signature = self.sign(IDENTITY_CONTEXT + report_data)
        return {"public-key": self.spki, "report-data": report_data, "signature": signature}

    def report(self, report_data: bytes, **changes: Any) -> dict[str, Any]:
        """A simulated report of which fields are changed; ``platform_id`` is ``platform-id``."""
        fields: dict[str, Any] = {
            "version": 1,
            "measurement": bytes([1]) * 48,
            "report-data": report_data,
            "root": hashlib.sha256(self.spki).digest(),
            "platform-id": bytes([3]) * 32,
            "svn": 1,
            "debug": False,
        }
        return {**fields, **{name.replace("_", "-"): value for name, value in changes.items()}}

    def simulated_evidence(self, report_data: bytes, **changes: Any) -> bytes:
        return self.signed(cbor2.dumps(self.report(report_data, **changes), canonical=True))

    def signed(self, report: bytes) -> bytes:
        """Evidence that carries these bytes as its report."""
        signature = self.sign(SIMULATED_CONTEXT + report)
        return cbor2.dumps({"report": report, "signature": signature}, canonical=True)
