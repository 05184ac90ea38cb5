"""Mint the workload's attested certificate: a key of this launch alone, and evidence about it.

The private key is made here, in the TEE, and goes to the keeper, which writes it into the
workload's root. Nobody else chooses the key, the claims or the report data.

Source: specs/attested-certificate.md, "Minting".
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from casemate.evidence import Attester
from casemate.protocol import Claims, PresentedEvidence, encode_claims, report_data_for
from casemate.protocol.certificate import make_certificate, tensorflow_serving_ssl_config
from casemate.protocol.contract import LaunchContract
from casemate.protocol.contract_certificate import CertificateForm
from casemate.types import Secret, sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """An attested certificate, in the form that its workload reads.

    Args:
        files: content of each of the contract's files, in their order.
        fingerprint: SHA-256 of the certificate, hex.
        until: when it ends.
    """

    files: tuple[Secret, ...]
    fingerprint: str
    until: datetime.datetime


def mint_certificate(
    contract: LaunchContract, attester: Attester, *, now: datetime.datetime
) -> Minted:
    """Mint the certificate that a contract asks for.

    Args:
        contract: its ``tls`` is ``attested``.
        attester: the TEE that we run in.
        now: the time.

    Raises:
        UnavailableError, UsageError: what the TEE raises; ``certificate.too-large``.
    """
    placement = contract.certificate
    assert placement is not None
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claims = encode_claims(Claims(pubkey_hash=sha256(spki), launch=contract.digest()))
    presented = PresentedEvidence(
        evidence=attester.attest(report_data_for(claims)), claims_buffer=claims
    )
    certificate = make_certificate(
        key, presented, names=placement.names, at=now, days=placement.days
    )
    private = Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = certificate.public_bytes(Encoding.PEM)
    files: tuple[Secret, ...] = (private, Secret(public))
    if placement.form is CertificateForm.TENSORFLOW_SERVING:
        files = (tensorflow_serving_ssl_config(private, public),)
    return Minted(
        files=files,
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        until=certificate.not_valid_after_utc,
    )
