"""Attested certificates of other implementations: interoperable RA-TLS, and older private forms.

Source: Confidential Computing Consortium, "Interoperable RA-TLS": extension 2.23.133.5.4.9, CBOR
``60000([evidence, claims-buffer])``, and 2.23.133.5.4.2, ``60000([version, …])``, for endorsements;
Gramine's documentation, "RA-TLS", for the extension 0.6.9.42.840.113741.1337.6; Occlum's, of
GRPC-RATLS, for 1.2.840.113741.1. The last two hold the bare quote.

Read with asn1crypto: some of these certificates carry parameters with their ECDSA algorithm, which
`cryptography` refuses to parse; Occlum's are of version 1 with extensions, and signed with SHA-1.
That signature is never looked at, for nothing rests on it: the quote binds the key, not the
certificate. Nothing here is trusted before it is verified.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cbor2

from casemate.encoding import decode_foreign_cbor
from casemate.errors import MalformedError

MAX_SIZE = 128 * 1024
INTEROPERABLE = "2.23.133.5.4.9"
GRAMINE = "0.6.9.42.840.113741.1337.6"
OCCLUM = "1.2.840.113741.1"
ENDORSEMENTS = "2.23.133.5.4.2"
_BARE = {GRAMINE: "gramine", OCCLUM: "occlum"}
_QUOTE_TAG = 60000
_ENDORSEMENTS_COUNT = (8, 9)
_HASHES = {1: "sha256", 7: "sha384", 8: "sha512"}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedCertificate:
    """A certificate with evidence in it.

    Args:
        form: ``interoperable``; ``gramine`` or ``occlum`` where there's only a private extension.
        spki: DER SubjectPublicKeyInfo of the certificate's key.
        quote: Intel's quote.
        claims_buffer: what the quote's report data is the SHA-256 of; empty in private forms.
        key_hash_algorithm, key_hash: of the claim ``pubkey-hash``.
        claims: the other claims, by name.
        endorsements: Intel's collateral as the holder carries it along, in the order of the
            format; None without. Nobody is judged by it: what changes with time, such as what is
            revoked, comes from who judges.
    """

    form: str
    spki: bytes
    quote: bytes
    claims_buffer: bytes
    key_hash_algorithm: str
    key_hash: bytes
    claims: Mapping[str, bytes]
    endorsements: tuple[bytes, ...] | None = None


def parse_attested_certificate(data: bytes) -> AttestedCertificate:
    """Parse a certificate.

    Args:
        data: PEM (one) or DER, at most 128 KiB.

    Raises:
        MalformedError: ``ratls.malformed``, ``encoding.*``.

    Does not check: signatures, the binding, or the evidence (`casemate.verify.ratls`).
    """
    from asn1crypto import x509

    der = _der(data)
    try:
        certificate = x509.Certificate.load(der, strict=True)
        body = certificate["tbs_certificate"]
        spki = body["subject_public_key_info"].dump()
        found = [
            (each["extn_id"].dotted, each["extn_value"].contents) for each in body["extensions"]
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise _malformed("certificate", "X.509", str(error)[:80]) from error
    extensions = dict(found)
    if len(extensions) != len(found):
        raise _malformed("extensions", "each once", "one twice")
    if INTEROPERABLE in extensions:
        carried = extensions.get(ENDORSEMENTS)
        return _interoperable(
            extensions[INTEROPERABLE], spki, None if carried is None else _endorsements(carried)
        )
    for dotted, form in _BARE.items():
        if dotted in extensions:
            return AttestedCertificate(
                form=form, spki=spki, quote=extensions[dotted], claims_buffer=b"",
                key_hash_algorithm="sha256", key_hash=b"", claims=MappingProxyType({}),
            )  # fmt: skip
    wanted = " or ".join((INTEROPERABLE, *_BARE))
    raise _malformed("extensions", wanted, ", ".join(extensions)[:120])


def _endorsements(value: bytes) -> tuple[bytes, ...]:
    outer = decode_foreign_cbor(
        value, what="endorsements extension", max_size=MAX_SIZE, tags={_QUOTE_TAG}
    )
    items = outer.value if isinstance(outer, cbor2.CBORTag) else None
    if not isinstance(items, list) or len(items) not in _ENDORSEMENTS_COUNT:
        raise _malformed("endorsements extension", f"the tag {_QUOTE_TAG}, 8 or 9 items", "another")
    version, *parts = items
    if not isinstance(version, int) or not all(isinstance(part, bytes) for part in parts):
        raise _malformed("endorsements extension", "a version, then byte strings", "another")
    return tuple(parts)


def _interoperable(
    value: bytes, spki: bytes, endorsements: tuple[bytes, ...] | None
) -> AttestedCertificate:
    outer = decode_foreign_cbor(
        value, what="evidence extension", max_size=MAX_SIZE, tags={_QUOTE_TAG}
    )
    if not isinstance(outer, cbor2.CBORTag):
        raise _malformed("evidence extension", f"the tag {_QUOTE_TAG}", "no tag")
    match outer.value:
        case [bytes() as quote, bytes() as claims_buffer]:
            pass
        case _:
            raise _malformed("evidence extension", "quote and claims buffer", "another value")
    claims = decode_foreign_cbor(claims_buffer, what="claims buffer", max_size=MAX_SIZE)
    if not isinstance(claims, dict) or not all(
        isinstance(name, str) and isinstance(item, bytes) for name, item in claims.items()
    ):
        raise _malformed("claims buffer", "text keys and byte values", "another value")
    if "pubkey-hash" not in claims:
        raise _malformed("claims buffer", "the claim pubkey-hash", ", ".join(claims)[:80])
    inner = decode_foreign_cbor(claims.pop("pubkey-hash"), what="pubkey-hash", max_size=128)
    match inner:
        case [int() as algorithm, bytes() as digest] if algorithm in _HASHES:
            pass
        case _:
            raise _malformed("pubkey-hash", "SHA-256, SHA-384 or SHA-512, and a digest", "another")
    return AttestedCertificate(
        form="interoperable",
        spki=spki,
        quote=quote,
        claims_buffer=claims_buffer,
        key_hash_algorithm=_HASHES[algorithm],
        key_hash=digest,
        claims=MappingProxyType(claims),
        endorsements=endorsements,
    )


def _der(data: bytes) -> bytes:
    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    if data[:1] == b"\x30" and data[1:2] >= b"\x80":  # a quote in it can hold PEM, too
        return data
    blocks = _PEM.findall(data)
    if len(blocks) != 1:
        raise _malformed("PEM", "one certificate", str(len(blocks)))
    try:
        return base64.b64decode(b"".join(blocks[0].split()), validate=True)
    except binascii.Error as error:
        raise _malformed("PEM", "base64", "something else") from error


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "ratls.malformed",
        f"the attested certificate has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
