"""TLS for the channel: ephemeral keys, TLS 1.3 alone, no resumption.

X.509 means nothing here: certificates are only the form in which TLS carries a public key. The
key is what evidence binds.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from casemate.errors import NotGenuineError

ALPN = b"casemate-attested-channel/1"
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266, no context
_EXPORTER_LENGTH = 32


@dataclass(frozen=True, slots=True)
class TlsKey:
    """An ephemeral P-256 key with the certificate that carries it.

    Args:
        private_key: never leaves the process.
        certificate: self-signed, empty of meaning.
        spki: DER SubjectPublicKeyInfo.
    """

    private_key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    spki: bytes


def make_tls_key() -> TlsKey:
    """A new key, as each endpoint makes one when it starts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "casemate attested channel")])
    always = datetime.datetime(2000, 1, 1), datetime.datetime(9999, 12, 31)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(always[0])
        .not_valid_after(always[1])
        .sign(key, hashes.SHA256())
    )
    return TlsKey(key, certificate, _spki(key.public_key()))


def make_context(key: TlsKey) -> SSL.Context:
    """A context for either role. Both sides must present a certificate; any will do."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_privatekey(key.private_key)
    context.use_certificate(key.certificate)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _any_certificate)
    context.set_verify_depth(1)
    context.set_alpn_protos([ALPN])
    context.set_alpn_select_callback(_select_alpn)
    return context


def exporter(connection: SSL.Connection) -> bytes:
    """The channel binding: 32 bytes that both sides of this connection share, and nobody else."""
    return connection.export_keying_material(_EXPORTER_LABEL, _EXPORTER_LENGTH)


def peer_spki(connection: SSL.Connection, *, own: bytes) -> bytes:
    """The key that the peer proved to hold, after the handshake.

    Raises:
        NotGenuineError: ``channel.alpn``, ``channel.key-type``, ``channel.own-key``.
    """
    # Rule 1: the private protocol name, so that no other protocol's endpoint can be confused.
    negotiated = connection.get_alpn_proto_negotiated()
    if negotiated != ALPN:
        raise _refusal("channel.alpn", "ALPN", ALPN.decode(), negotiated.decode("ascii", "replace"))
    # Rule 2: a P-256 key.
    certificate = connection.get_peer_certificate(as_cryptography=True)
    try:
        key = certificate.public_key() if certificate is not None else None
    except (ValueError, TypeError) as error:
        raise _refusal("channel.key-type", "peer key", "P-256", "an unreadable key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise _refusal("channel.key-type", "peer key", "P-256", type(key).__name__)
    # Rule 3: not our own key, which would be a reflection of ourselves.
    spki = _spki(key)
    if spki == own:
        raise _refusal("channel.own-key", "peer key", "a key other than ours", "our own key")
    return spki


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _any_certificate(*_: object) -> bool:
    return True


def _select_alpn(_: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    return ALPN if ALPN in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _refusal(code: str, field: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        code,
        f"the peer's {field} is not that of an attested channel",
        field=field,
        expected=expected,
        got=got or "none",
        remedy="Check that the address leads to a Casemate endpoint of the same release.",
    )
