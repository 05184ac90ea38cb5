"""Attested certificates, in the forms of several implementations.

Source: see `casemate.evidence.ratls`.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate_testkit.pki import NOW, P256, der, name, tlv, tlv_integer, tlv_oid

INTEROPERABLE, ENDORSEMENTS = "2.23.133.5.4.9", "2.23.133.5.4.2"
GRAMINE, OCCLUM = "0.6.9.42.840.113741.1337.6", "1.2.840.113741.1"
WRAPPED = "1.3.6.1.5.5.7.1.35"
_QUOTE_TAG = 60000
_MEDIA_TYPE, _IS_EVIDENCE = "application/vnd.casemate.evidence+cbor", 4
_SHA1_WITH_RSA, _COMMON_NAME, _ORGANISATION = "1.2.840.113549.1.1.5", "2.5.4.3", "2.5.4.10"

Quoting = Callable[[bytes], bytes]
"""Gives a quote for report data of 64 bytes."""


def interoperable(
    quote: Quoting,
    *,
    claims: Mapping[str, bytes] | None = None,
    hashed: bytes | None = None,
    bound: bytes | None = None,
    endorsements: tuple[object, ...] | None = None,
    times: int = 1,
) -> bytes:
    """A certificate in the form of the Confidential Computing Consortium, DER.

    Args:
        quote: makes the quote.
        claims: further ones.
        hashed: another key than the certificate's, as SubjectPublicKeyInfo.
        bound: another claims buffer for the quote to bind.
        endorsements: of the extension for them, whatever they are.
        times: how often the evidence stands in it.
    """
    key = ec.generate_private_key(P256)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    digest = hashlib.sha256(hashed or spki).digest()
    buffer = cbor2.dumps({"pubkey-hash": cbor2.dumps([1, digest]), **(claims or {})})
    report_data = hashlib.sha256(bound or buffer).digest() + bytes(32)
    evidence = cbor2.dumps(cbor2.CBORTag(_QUOTE_TAG, [quote(report_data), buffer]))
    extensions = [(INTEROPERABLE, evidence)] * times
    if endorsements is not None:
        value = cbor2.dumps(cbor2.CBORTag(_QUOTE_TAG, list(endorsements)))
        extensions.append((ENDORSEMENTS, value))
    if times > 1:  # the library doesn't sign such a certificate; its signature means nothing
        return _by_hand(spki, extensions, lambda _: b"")
    return _self_signed(key, extensions)


def wrapped(
    tee: str,
    evidence: Quoting,
    *,
    endorsements: Sequence[bytes] = (),
    launch: bytes | None = None,
    nonce: bytes | None = None,
    hashed: bytes | None = None,
) -> bytes:
    """A certificate as our launchers make them for evidence that is no bare quote, DER.

    Args:
        tee: whose evidence.
        evidence: makes it.
        endorsements: beside it.
        launch: a launch contract's digest.
        nonce: as if it was made for a channel.
        hashed: another key than the certificate's, as SubjectPublicKeyInfo.
    """
    key = ec.generate_private_key(P256)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claims = {"pubkey-hash": cbor2.dumps([1, hashlib.sha256(hashed or spki).digest()])}
    claims |= {name: value for name, value in (("launch", launch), ("nonce", nonce)) if value}
    buffer = cbor2.dumps(claims, canonical=True)
    message = {
        "tee": tee,
        "evidence": evidence(hashlib.sha256(buffer).digest() + bytes(32)),
        "endorsements": list(endorsements),
        "claims": buffer,
    }
    record = [_MEDIA_TYPE, cbor2.dumps(message, canonical=True), _IS_EVIDENCE]
    return _self_signed(key, [(WRAPPED, tlv(0x04, cbor2.dumps(record)))])


def gramine(quote: Quoting, *, hashed: bytes | None = None) -> bytes:
    """A certificate in Gramine's older form, DER.

    Args:
        quote: makes the quote.
        hashed: another key than the certificate's, as SubjectPublicKeyInfo.
    """
    key = ec.generate_private_key(P256)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    report_data = hashlib.sha256(hashed or spki).digest() + bytes(32)
    return _self_signed(key, [(GRAMINE, quote(report_data))])


def occlum(quote: Quoting, *, hashed: bytes | None = None) -> bytes:
    """A certificate in Occlum's form, DER: RSA, SHA-1, and of version 1 though it has extensions.

    Args:
        quote: makes the quote.
        hashed: another key than the certificate's, as SubjectPublicKeyInfo.
    """
    key = rsa.generate_private_key(65537, 2048)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    report_data = hashlib.sha256(hashed or spki).digest() + bytes(32)
    return _by_hand(
        spki,
        [(OCCLUM, quote(report_data))],
        lambda body: key.sign(body, padding.PKCS1v15(), hashes.SHA1()),
    )


def _self_signed(key: ec.EllipticCurvePrivateKey, extensions: list[tuple[str, bytes]]) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("RA-TLS"))
        .issuer_name(name("RA-TLS"))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + datetime.timedelta(days=365))
    )
    for dotted, value in extensions:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), value)
        builder = builder.add_extension(unknown, critical=False)
    return der(builder.sign(key, hashes.SHA256()))


def _by_hand(
    spki: bytes, extensions: list[tuple[str, bytes]], sign: Callable[[bytes], bytes]
) -> bytes:
    """What no library makes. Source: RFC 5280, section 4.1, without a version."""
    algorithm = tlv(0x30, tlv_oid(_SHA1_WITH_RSA), tlv(0x05))
    subject = tlv(
        0x30,
        *(
            tlv(0x31, tlv(0x30, tlv_oid(kind), tlv(0x0C, text)))
            for kind, text in ((_ORGANISATION, b"Intel Inc."), (_COMMON_NAME, b"localhost"))
        ),
    )
    valid = tlv(0x30, tlv(0x17, b"220101000000Z"), tlv(0x17, b"420101000000Z"))
    values = [tlv(0x30, tlv_oid(dotted), tlv(0x04, value)) for dotted, value in extensions]
    body = tlv(
        0x30, tlv_integer(1), algorithm, subject, valid, subject, spki,
        tlv(0xA3, tlv(0x30, *values)),
    )  # fmt: skip
    return tlv(0x30, body, algorithm, tlv(0x03, b"\0" + sign(body)))
