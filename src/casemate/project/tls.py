"""A TLS identity for a workload, and the file in which TensorFlow Serving reads it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from casemate.protocol.certificate import general_name
from casemate.protocol.certificate import tensorflow_serving_ssl_config as ssl_config
from casemate.types import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsIdentity:
    """A private key and a self-signed certificate, both in PEM."""

    private_key: Secret
    certificate: bytes


def make_tls_identity(
    hosts: tuple[str, ...], *, now: datetime.datetime, days: int = 90
) -> TlsIdentity:
    """Make a P-256 key and a self-signed certificate for ``hosts``.

    Args:
        hosts: DNS names and IP addresses; the first is the common name too.
        now: start of validity, less five minutes for clocks that are behind.
        days: validity.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([general_name(h) for h in hosts]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return TlsIdentity(private_key=Secret(pem), certificate=certificate.public_bytes(Encoding.PEM))


def tensorflow_serving_ssl_config(identity: TlsIdentity) -> Secret:
    """The identity as TensorFlow Serving's ``--ssl_config_file`` wants it."""
    return ssl_config(identity.private_key, identity.certificate)
