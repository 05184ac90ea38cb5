"""Make attested certificates: from a key and evidence about it to what servers read.

No I/O: key, evidence and time are arguments, and the signature is deterministic (RFC 6979), so the
same arguments give the same certificate.

Source: specs/attested-certificate.md, "Certificate" and "Evidence".
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from casemate.errors import UsageError
from casemate.evidence.message import PresentedEvidence
from casemate.evidence.ratls import evidence_extension
from casemate.types import Secret, sha256

MAX_SIZE = 64 * 1024
_SUBJECT = "casemate workload"
_SERIAL_BYTES = 16
_EARLIER = datetime.timedelta(minutes=5)


def make_certificate(
    key: ec.EllipticCurvePrivateKey,
    presented: PresentedEvidence,
    *,
    names: Sequence[str],
    at: datetime.datetime,
    days: int,
) -> x509.Certificate:
    """A self-signed certificate that carries evidence.

    Args:
        key: on P-256.
        presented: evidence that binds a claims buffer with this key's hash, and that buffer.
        names: DNS names and IP addresses.
        at: now.
        days: how long from now it is valid.

    Raises:
        UsageError: ``certificate.too-large``.

    Does not check: that the evidence is about this key; whoever made both knows.
    """
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    number = int.from_bytes(sha256(spki)[:_SERIAL_BYTES], "big") & ((1 << 127) - 1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _SUBJECT)])
    dotted, octets = evidence_extension(presented)
    evidence = x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), octets)
    at = at.replace(microsecond=0)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(at - _EARLIER)
        .not_valid_after(at + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(list(map(general_name, names))), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(evidence, critical=False)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    if (size := len(certificate.public_bytes(Encoding.DER))) > MAX_SIZE:
        raise UsageError(
            "certificate.too-large",
            "the evidence makes the certificate too large for servers and clients",
            field="evidence",
            expected=f"a certificate of at most {MAX_SIZE} bytes",
            got=f"{size} bytes",
            remedy="Attest fewer GPUs along, or let the broker release a certificate (tls = "
            '"secret").',
        )
    return certificate


def general_name(name: str) -> x509.GeneralName:
    """A DNS name or an IP address, as certificates name it."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def tensorflow_serving_ssl_config(private_key: Secret, certificate: bytes) -> Secret:
    """Key and certificate as TensorFlow Serving's ``--ssl_config_file`` wants them: protobuf text.

    Args:
        private_key: PEM.
        certificate: PEM.
    """
    lines = (
        f"server_key: '{_escape(private_key.reveal())}'",
        f"server_cert: '{_escape(certificate)}'",
        "client_verify: false",
    )
    return Secret("".join(f"{line}\n" for line in lines).encode())


def _escape(pem: bytes) -> str:
    return pem.decode("ascii").replace("\n", "\\n")
