"""Certificate authorities of our own, with revocation lists and OCSP responses."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
P256, P384 = ec.SECP256R1(), ec.SECP384R1()


class Options(TypedDict, total=False):
    """What `make` takes beside a subject and an issuer."""

    ca: bool
    path_length: int | None
    cert_sign: bool
    start: datetime.datetime
    end: datetime.datetime
    extensions: dict[str, bytes] | None
    critical: tuple[str, ...]
    issuer_name: str | None
    curve: ec.EllipticCurve
    usages: tuple[x509.ObjectIdentifier, ...]


def name(text: str) -> x509.Name:
    """A name that is a common name alone."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates, one after the other."""
    return b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def der(certificate: x509.Certificate | x509.CertificateRevocationList) -> bytes:
    """A certificate or revocation list as it travels."""
    return certificate.public_bytes(Encoding.DER)


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo of a key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """An ECDSA signature as R and S, big-endian, each as long as the curve's order."""
    size = (key.curve.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_hash(key))))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def tlv(tag: int, *content: bytes) -> bytes:
    """A DER value: tag, length, content."""
    joined = b"".join(content)
    size = len(joined)
    if size < 0x80:
        return bytes((tag, size)) + joined
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + joined


def tlv_integer(value: int) -> bytes:
    """A DER INTEGER that isn't negative."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def tlv_oid(dotted: str) -> bytes:
    """A DER OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray()
    for part in (first * 40 + second, *rest):
        digits = [part & 0x7F]
        while part := part >> 7:
            digits.append(part & 0x7F | 0x80)
        content += bytes(reversed(digits))
    return tlv(0x06, bytes(content))


@dataclass(frozen=True)
class Authority:
    """A key with its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(self, subject: str, **options: Unpack[Options]) -> Authority:
        """Issue a certificate; see `make`."""
        return make(subject, issuer=self, **options)

    def revocation_list(
        self,
        *revoked: x509.Certificate,
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime = NOW + DAY,
    ) -> x509.CertificateRevocationList:
        """A list of this authority's."""
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(start)
            .next_update(end)
            .add_extension(x509.CRLNumber(1), False)
            .add_extension(key_id, False)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial_number)
                .revocation_date(start)
                .build()
            )
        return builder.sign(self.key, _hash(self.key))

    def responder(self, subject: str = "OCSP responder", **options: Unpack[Options]) -> Authority:
        """Somebody who may answer for this authority."""
        options.setdefault("ca", False)
        options.setdefault("usages", (ExtendedKeyUsageOID.OCSP_SIGNING,))
        return self.issue(subject, **options)

    def ocsp_response(
        self,
        certificate: x509.Certificate,
        *,
        responder: Authority | None = None,
        revoked: bool = False,
        unknown: bool = False,
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime | None = NOW + DAY,
        nonce: bytes | None = None,
    ) -> bytes:
        """What is said of a certificate that this authority issued.

        Args:
            certificate: whose status it is.
            responder: who signs; the authority itself if not given.
            revoked, unknown: instead of "good".
            start, end: since when and until when that is known.
            nonce: of the request that is answered.
        """
        signer = responder or self
        status = ocsp.OCSPCertStatus.GOOD
        if revoked or unknown:
            status = ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.UNKNOWN
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=certificate, issuer=self.certificate, algorithm=hashes.SHA384(),
            cert_status=status, this_update=start, next_update=end,
            revocation_time=start if revoked else None, revocation_reason=None,
        ).responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)  # fmt: skip
        if responder is not None:
            builder = builder.certificates([responder.certificate])
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), False)
        return builder.sign(signer.key, _hash(signer.key)).public_bytes(Encoding.DER)


def make(subject: str, *, issuer: Authority | None = None, **options: Unpack[Options]) -> Authority:
    """A certificate, by default of a CA that is valid for two years; self-signed without issuer.

    Args:
        subject: the common name.
        issuer: who issues it.
        options: see `Options` and `certify`; ``curve`` is the new key's.
    """
    key = ec.generate_private_key(options.get("curve", P384))
    certificate = certify(
        key.public_key(), subject, issuer.key if issuer else key,
        issuer.certificate.subject if issuer else name(subject), **options,
    )  # fmt: skip
    return Authority(key, certificate)


def certify(
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    subject: str,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    *,
    ca: bool = True,
    path_length: int | None = None,
    cert_sign: bool = True,
    start: datetime.datetime = NOW - 365 * DAY,
    end: datetime.datetime = NOW + 365 * DAY,
    extensions: dict[str, bytes] | None = None,
    critical: tuple[str, ...] = (),
    issuer_name: str | None = None,
    curve: ec.EllipticCurve = P384,  # noqa: ARG001  of `make`
    usages: tuple[x509.ObjectIdentifier, ...] = (),
) -> x509.Certificate:
    """A certificate of any key.

    Args:
        public_key, subject: whose it is; an empty subject has no name.
        signer, issuer: who issues it; ``issuer_name`` is another's name in its place.
        ca, path_length, cert_sign: what the key may issue.
        start, end: when it is valid.
        extensions, critical: further ones by number, and which of them are critical.
        usages: extended key usages.
        curve: ignored.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject) if subject else x509.Name([]))
        .issuer_name(name(issuer_name) if issuer_name else issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), True)
    )
    if ca:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        builder = builder.add_extension(
            x509.KeyUsage(key_cert_sign=cert_sign, crl_sign=True, **usage), True
        )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), False)
    for dotted, value in (extensions or {}).items():
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), value)
        builder = builder.add_extension(unknown, dotted in critical)
    return builder.sign(signer, _hash(signer))


def _hash(key: ec.EllipticCurvePrivateKey) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA256() if isinstance(key.curve, ec.SECP256R1) else hashes.SHA384()
