"""X.509 certificates and revocation lists as they come: PEM or DER, one or many.

Source: RFC 5280; RFC 7468 for PEM.
Does not check: signatures, names or time (`casemate.verify.chain`).
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from casemate.errors import MalformedError

MAX_CERTIFICATES = 16
_MAX_SIZE = 1024 * 1024
# What the library raises for input that isn't what it should be; not all are a ValueError.
_REFUSALS = (
    ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)  # fmt: skip
_BLOCK = re.compile(
    rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\s*([A-Za-z0-9+/=\s]*?)-----END \1-----", re.ASCII
)


def load_certificates(data: bytes, *, what: str) -> tuple[x509.Certificate, ...]:
    """Certificates from PEM (any number, text between them is skipped) or DER (one).

    Args:
        data: at most 1 MiB and 16 certificates.
        what: what they are, for messages.

    Raises:
        MalformedError: ``endorsements.certificate``.
    """
    return tuple(load_certificate(der, what=what) for der in _blocks(data, "CERTIFICATE", what))


def load_certificate(der: bytes, *, what: str) -> x509.Certificate:
    """One certificate, DER.

    Raises:
        MalformedError: ``endorsements.certificate``; trailing bytes too.
    """
    try:
        with warnings.catch_warnings():
            # AMD's chip certificates have the serial number 0, against RFC 5280.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            certificate = x509.load_der_x509_certificate(der)
            # The library reads these only when they are asked for, and fails only then.
            _ = certificate.subject, certificate.issuer, certificate.extensions
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            _ = certificate.serial_number, certificate.signature_algorithm_oid
            _ = certificate.signature_hash_algorithm, certificate.public_key()
    except _REFUSALS as error:
        raise _malformed(what, "certificate", str(error)) from error
    if certificate.public_bytes(Encoding.DER) != der:
        raise _malformed(what, "certificate", "bytes that are not the certificate's")
    return certificate


def load_revocation_lists(data: bytes, *, what: str) -> tuple[x509.CertificateRevocationList, ...]:
    """Certificate revocation lists from PEM or DER.

    Raises:
        MalformedError: ``endorsements.revocation-list``.
    """
    lists = []
    for der in _blocks(data, "X509 CRL", what):
        try:
            parsed = x509.load_der_x509_crl(der)
            _ = parsed.extensions, parsed.issuer, parsed.signature_hash_algorithm
            _ = parsed.last_update_utc, parsed.next_update_utc
            parsed.get_revoked_certificate_by_serial_number(1)  # reads every entry
        except _REFUSALS as error:
            raise _malformed(what, "revocation-list", str(error)) from error
        lists.append(parsed)
    return tuple(lists)


def is_der(data: bytes) -> bool:
    """Whether it begins like a DER structure of more than 127 bytes, which can hold PEM inside."""
    return data[:1] == b"\x30" and data[1:2] >= b"\x80"


def _blocks(data: bytes, label: str, what: str) -> tuple[bytes, ...]:
    if len(data) > _MAX_SIZE:
        raise _malformed(what, "certificate", f"{len(data)} bytes")
    if is_der(data) or b"-----BEGIN " not in data:
        return (data,)
    blocks = []
    for match in _BLOCK.finditer(data):
        if match[1].decode() == label:
            try:
                blocks.append(base64.b64decode(b"".join(match[2].split()), validate=True))
            except binascii.Error as error:
                raise _malformed(what, "certificate", "base64 that isn't") from error
    if not 0 < len(blocks) <= MAX_CERTIFICATES:
        raise _malformed(what, "certificate", f"{len(blocks)} PEM blocks {label}")
    return tuple(blocks)


def _malformed(what: str, kind: str, got: str) -> MalformedError:
    return MalformedError(
        f"endorsements.{kind}",
        f"the {what} can't be read as a {kind.replace('-', ' ')}",
        field=what,
        expected="X.509, PEM or DER, nothing before or after",
        got=got[:200],
    )
