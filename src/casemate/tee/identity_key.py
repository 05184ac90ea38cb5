"""A peer without a TEE: its long-lived identity key signs for it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from casemate.errors import UsageError
from casemate.evidence import Evidence, Tee
from casemate.evidence.identity_key import (
    SIGNATURE_CONTEXT,
    IdentityKeyReport,
    encode_identity_key_evidence,
)
from casemate.types import ReportData, Secret


class IdentityKey:
    """An Attester that vouches with a key instead of a TEE.

    Args:
        pem: the private key, Ed25519, PKCS #8 in PEM.

    Raises:
        UsageError: ``tee.identity-key`` where it is something else.
    """

    def __init__(self, pem: Secret) -> None:
        try:
            key = load_pem_private_key(pem.reveal(), password=None)
        except (ValueError, TypeError) as error:
            raise _unusable("something else") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _unusable(type(key).__name__)
        self._key = key

    @property
    def spki(self) -> bytes:
        """The public key: DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def attest(self, report_data: ReportData) -> Evidence:
        """Evidence that binds ``report_data`` to the identity key."""
        report = IdentityKeyReport(
            public_key=self.spki,
            report_data=report_data,
            signature=self._key.sign(SIGNATURE_CONTEXT + report_data),
        )
        return Evidence(tee=Tee.IDENTITY_KEY, data=encode_identity_key_evidence(report))


def _unusable(got: str) -> UsageError:
    return UsageError(
        "tee.identity-key",
        "the identity key can't be used",
        field="identity key",
        expected="an Ed25519 private key in PEM (PKCS #8)",
        got=got,
        remedy="Make one with: casemate key new --for identity FILE",
    )
