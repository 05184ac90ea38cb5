"""Attested certificates: ours, interoperable RA-TLS, and other implementations' private forms.

Source: specs/attested-certificate.md, "Evidence"; Confidential Computing Consortium, "Interoperable
RA-TLS": extension 2.23.133.5.4.9, CBOR ``60000([evidence, claims-buffer])``, and 2.23.133.5.4.2,
``60000([version, …])``, for endorsements; IETF RATS, "Conceptual Messages Wrapper", for id-pe-cmw;
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

from casemate.encoding import decode_cbor, decode_foreign_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.evidence.claims import parse_claims
from casemate.evidence.envelope import Evidence, Tee
from casemate.evidence.message import PresentedEvidence
from casemate.evidence.quote import SgxReport, parse_quote
from casemate.types import Sha384

MAX_SIZE = 128 * 1024
INTEROPERABLE = "2.23.133.5.4.9"
WRAPPED = "1.3.6.1.5.5.7.1.35"
GRAMINE = "0.6.9.42.840.113741.1337.6"
OCCLUM = "1.2.840.113741.1"
ENDORSEMENTS = "2.23.133.5.4.2"
_BARE = {GRAMINE: "gramine", OCCLUM: "occlum"}
_QUOTE_TAG = 60000
_MEDIA_TYPE = "application/vnd.casemate.evidence+cbor"
_IS_EVIDENCE = 4  # the bit of a wrapped message that says: evidence
_QUOTES = (Tee.SGX, Tee.TDX)
_OCTET_STRING, _LONG_FORM, _SHORT = 0x04, 0x80, 0x80
_ENDORSEMENTS_COUNT = (8, 9)
_HASHES = {1: "sha256", 7: "sha384", 8: "sha512"}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedCertificate:
    """A certificate with evidence in it.

    Args:
        form: ``interoperable``, ``wrapped``; ``gramine`` or ``occlum`` where there's only a private
            extension.
        der: the certificate.
        spki: DER SubjectPublicKeyInfo of the certificate's key.
        evidence: what it carries; certificates and manifests beside it in the wrapped form alone.
        claims_buffer: what the evidence's report data is the SHA-256 of; empty in private forms.
        key_hash_algorithm, key_hash: of the claim ``pubkey-hash``.
        claims: the other claims, by name.
        endorsements: Intel's collateral as the holder carries it along, in the order of the
            format; None without. Nobody is judged by it: what changes with time, such as what is
            revoked, comes from who judges.
    """

    form: str
    der: bytes
    spki: bytes
    evidence: Evidence
    claims_buffer: bytes
    key_hash_algorithm: str
    key_hash: bytes
    claims: Mapping[str, bytes]
    endorsements: tuple[bytes, ...] | None = None

    @property
    def launch(self) -> Sha384 | None:
        """SHA-384 of the launch contract, where the claims have one of its size."""
        launch = self.claims.get("launch")
        return Sha384(launch) if launch is not None and len(launch) == Sha384.length else None


def evidence_extension(presented: PresentedEvidence) -> tuple[str, bytes]:
    """The extension that carries evidence: its number, and its octets.

    Args:
        presented: evidence of a TEE, and the claims buffer that it binds.

    Source: specs/attested-certificate.md, "Evidence".
    """
    if presented.evidence.tee in _QUOTES and not presented.evidence.endorsements:
        pair = [presented.evidence.data, presented.claims_buffer]
        return INTEROPERABLE, cbor2.dumps(cbor2.CBORTag(_QUOTE_TAG, pair), canonical=True)
    record = encode_cbor([_MEDIA_TYPE, presented.encode(), _IS_EVIDENCE])
    return WRAPPED, _octet_string(record)


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
    if INTEROPERABLE in extensions and WRAPPED in extensions:
        raise _malformed("extensions", "evidence in one form", "two")
    if INTEROPERABLE in extensions:
        carried = extensions.get(ENDORSEMENTS)
        return _interoperable(
            extensions[INTEROPERABLE], der, spki,
            None if carried is None else _endorsements(carried),
        )  # fmt: skip
    if WRAPPED in extensions:
        return _wrapped(extensions[WRAPPED], der, spki)
    for dotted, form in _BARE.items():
        if dotted in extensions:
            return AttestedCertificate(
                form=form, der=der, spki=spki, evidence=_of_quote(extensions[dotted]),
                claims_buffer=b"", key_hash_algorithm="sha256", key_hash=b"",
                claims=MappingProxyType({}),
            )  # fmt: skip
    wanted = " or ".join((INTEROPERABLE, WRAPPED, *_BARE))
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


def _wrapped(value: bytes, der: bytes, spki: bytes) -> AttestedCertificate:
    record = decode_cbor(_octets(value), what="evidence extension", max_size=MAX_SIZE)
    match record:
        # The types are compared too: in Python, True equals 1.
        case [str(media), bytes(message), bit] if (media, bit) == (_MEDIA_TYPE, _IS_EVIDENCE):
            presented = PresentedEvidence.parse(message)
        case _:
            raise _malformed("evidence extension", f"a record of {_MEDIA_TYPE}", "another")
    if presented.evidence.tee in (*_QUOTES, Tee.IDENTITY_KEY):
        raise _malformed("evidence.tee", "a kind that is wrapped", presented.evidence.tee)
    claims = parse_claims(presented.claims_buffer)
    if claims.nonce is not None:
        raise _malformed("claims buffer", "no nonce", "evidence for a channel or a challenge")
    return AttestedCertificate(
        form="wrapped",
        der=der,
        spki=spki,
        evidence=presented.evidence,
        claims_buffer=presented.claims_buffer,
        key_hash_algorithm="sha256",
        key_hash=claims.pubkey_hash,
        claims=MappingProxyType({} if claims.launch is None else {"launch": claims.launch}),
    )


def _of_quote(quote: bytes) -> Evidence:
    sgx = isinstance(parse_quote(quote).report, SgxReport)
    return Evidence(tee=Tee.SGX if sgx else Tee.TDX, data=quote)


def _interoperable(
    value: bytes, der: bytes, spki: bytes, endorsements: tuple[bytes, ...] | None
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
        der=der,
        spki=spki,
        evidence=_of_quote(quote),
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


def _octet_string(content: bytes) -> bytes:
    """DER of an OCTET STRING."""
    size = len(content)
    if size < _SHORT:
        return bytes([_OCTET_STRING, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([_OCTET_STRING, _LONG_FORM | len(length)]) + length + content


def _octets(value: bytes) -> bytes:
    """What an OCTET STRING holds. DER has one form of it: what is read is written again."""
    head = 2 + (value[1] & ~_LONG_FORM if len(value) > 1 and value[1] & _LONG_FORM else 0)
    content = value[head:]
    if value != _octet_string(content):
        raise _malformed("evidence extension", "a message in CBOR, as an OCTET STRING", "another")
    return content


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "ratls.malformed",
        f"the attested certificate has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
