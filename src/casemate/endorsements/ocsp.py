"""OCSP responses: what a responder says of single certificates.

Source: RFC 6960, section 4.2.1 (the response), RFC 8954 (nonce).
Does not check: the signature, whose it is, or time (`casemate.verify.ocsp`).
"""

from __future__ import annotations

import datetime
import warnings
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ocsp

from casemate.endorsements.certificates import MAX_CERTIFICATES, load_certificate
from casemate.errors import MalformedError

MAX_SIZE = 64 * 1024
_MAX_STATUSES = 64
_HASHES = ("sha1", "sha256", "sha384", "sha512")
_SIGNATURE_HASHES = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspStatus:
    """What is said of one certificate.

    Args:
        hash_algorithm: by which the issuer is named: ``sha384``.
        issuer_name_hash, issuer_key_hash: of the issuer's name and of its key's bits.
        serial_number: the certificate's.
        status: ``good``, ``revoked`` or ``unknown``.
        revoked_at: since when, where it is revoked.
        this_update: when this was known to be right.
        next_update: when something newer will be known; None where the responder doesn't say.
    """

    hash_algorithm: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: int
    status: str
    revoked_at: datetime.datetime | None
    this_update: datetime.datetime
    next_update: datetime.datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OcspResponse:
    """A response of the kind "basic".

    Args:
        statuses: at least one.
        responder_name, responder_key_hash: who says that it signed; one of the two.
        produced_at: when it was signed.
        certificates: that came along with it, the responder's first.
        nonce: of the request that it answers, if it names one.
        signed: the bytes that the signature covers.
        signature: by the responder, in its key's usual form.
        signature_hash: ``sha384``.
        data: the whole response, DER, as it came.
    """

    statuses: tuple[OcspStatus, ...]
    responder_name: x509.Name | None
    responder_key_hash: bytes | None
    produced_at: datetime.datetime
    certificates: tuple[x509.Certificate, ...]
    nonce: bytes | None
    signed: bytes
    signature: bytes
    signature_hash: str
    data: bytes


def parse_ocsp_response(data: bytes) -> OcspResponse:
    """Parse a response.

    Args:
        data: DER, at most 64 KiB.

    Raises:
        MalformedError: ``endorsements.ocsp``; also where the responder gave no answer
            (``unauthorized``, ``tryLater``): there's nothing in such a response.
    """
    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return _parsed(ocsp.load_der_ocsp_response(data), data)
    except (
        ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:  # fmt: skip
        raise _malformed("form", "an OCSP response, DER", str(error)[:120]) from error


def _parsed(response: ocsp.OCSPResponse, data: bytes) -> OcspResponse:
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise _malformed("status", "successful", response.response_status.name.lower())
    if response.public_bytes(Encoding.DER) != data:
        raise _malformed("form", "nothing before or after the response", "other bytes")
    certificates = response.certificates
    if len(certificates) > MAX_CERTIFICATES:
        raise _malformed("certs", f"at most {MAX_CERTIFICATES}", str(len(certificates)))
    digest = response.signature_hash_algorithm
    if digest is None or digest.name not in _SIGNATURE_HASHES:
        raise _malformed("signatureAlgorithm", "SHA-256, SHA-384 or SHA-512", str(digest))
    nonces = []
    for extension in response.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonces.append(extension.value.nonce)
        elif extension.critical:
            raise _malformed("extensions", "no unknown critical one", extension.oid.dotted_string)
    statuses = tuple(_status(each) for each in response.responses)
    if not 0 < len(statuses) <= _MAX_STATUSES:
        raise _malformed("responses", f"1 to {_MAX_STATUSES}", str(len(statuses)))
    return OcspResponse(
        statuses=statuses,
        responder_name=response.responder_name,
        responder_key_hash=response.responder_key_hash,
        produced_at=response.produced_at_utc,
        certificates=tuple(
            load_certificate(each.public_bytes(Encoding.DER), what="OCSP certificate")
            for each in certificates
        ),
        nonce=nonces[0] if nonces else None,
        signed=response.tbs_response_bytes,
        signature=response.signature,
        signature_hash=digest.name,
        data=data,
    )


def _status(single: ocsp.OCSPSingleResponse) -> OcspStatus:
    if single.hash_algorithm.name not in _HASHES:
        raise _malformed("hashAlgorithm", " or ".join(_HASHES), single.hash_algorithm.name)
    return OcspStatus(
        hash_algorithm=single.hash_algorithm.name,
        issuer_name_hash=single.issuer_name_hash,
        issuer_key_hash=single.issuer_key_hash,
        serial_number=single.serial_number,
        status=single.certificate_status.name.lower(),
        revoked_at=single.revocation_time_utc,
        this_update=single.this_update_utc,
        next_update=single.next_update_utc,
    )


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "endorsements.ocsp",
        f"the OCSP response has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
