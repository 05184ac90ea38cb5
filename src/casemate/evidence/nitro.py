"""AWS Nitro attestation documents.

Source: AWS, "aws-nitro-enclaves-nsm-api", ``docs/attestation_process.md``, sections 3 and 4.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding import decode_foreign_cbor
from casemate.encoding.cose import ES384, Sign1, parse_sign1
from casemate.errors import MalformedError

MAX_SIZE = 16 * 1024
PCRS = 32
_PCR_SIZES = {32, 48, 64}
_MAX_CERTIFICATE = 1024
_MAX_BUNDLE = 16
_MAX_PUBLIC_KEY = 1024
_MAX_DATA = 512
_KEYS = {
    "module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle",
    "public_key", "user_data", "nonce",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class NitroDocument:
    """A document, every field under AWS's name.

    Args:
        module_id: the module that made it: instance and enclave.
        digest: the digest of the PCRs: ``SHA384``.
        timestamp: when it was made.
        pcrs: platform configuration registers by number, 48 bytes each.
        certificate: the key's certificate, DER.
        cabundle: its issuers, DER, root first.
        public_key: bytes that the enclave chose, or None.
        user_data: likewise.
        nonce: likewise.
        sign1: the COSE message around it.
    """

    module_id: str
    digest: str
    timestamp: datetime.datetime
    pcrs: Mapping[int, bytes]
    certificate: bytes
    cabundle: tuple[bytes, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None
    sign1: Sign1

    @property
    def debug(self) -> bool:
        """Whether the enclave ran in debug mode: PCR0 to PCR2 are then zero."""
        return not any(any(self.pcrs.get(number, b"")) for number in (0, 1, 2))


def parse_nitro_document(data: bytes) -> NitroDocument:
    """Parse a document.

    Args:
        data: COSE_Sign1 in CBOR, tagged or not, at most 16 KiB.

    Raises:
        MalformedError: ``nitro.malformed``, ``encoding.*``.

    Does not check: the signature and the chain (`casemate.verify.nitro`).
    """
    sign1 = parse_sign1(data, what="Nitro document", max_size=MAX_SIZE)
    if sign1.algorithm != ES384:
        raise _malformed("algorithm", "ES384", str(sign1.algorithm))
    content = decode_foreign_cbor(sign1.payload, what="Nitro document", max_size=MAX_SIZE)
    if not isinstance(content, dict) or set(content) - _KEYS:
        raise _malformed("document", "a map of the fields that AWS documents", "something else")
    bundle = content.get("cabundle")
    if not isinstance(bundle, list) or not 0 < len(bundle) <= _MAX_BUNDLE:
        raise _malformed("cabundle", f"1 to {_MAX_BUNDLE} certificates", type(bundle).__name__)
    digest, module_id = content.get("digest"), content.get("module_id")
    if digest != "SHA384":
        raise _malformed("digest", "SHA384", str(digest)[:20])
    if not isinstance(module_id, str) or not 0 < len(module_id) <= 256:
        raise _malformed("module_id", "a text", type(module_id).__name__)
    return NitroDocument(
        module_id=module_id,
        digest=digest,
        timestamp=_timestamp(content.get("timestamp")),
        pcrs=_pcrs(content.get("pcrs")),
        certificate=_bytes("certificate", content.get("certificate"), _MAX_CERTIFICATE),
        cabundle=tuple(_bytes("cabundle", item, _MAX_CERTIFICATE) for item in bundle),
        public_key=_optional("public_key", content.get("public_key"), _MAX_PUBLIC_KEY),
        user_data=_optional("user_data", content.get("user_data"), _MAX_DATA),
        nonce=_optional("nonce", content.get("nonce"), _MAX_DATA),
        sign1=sign1,
    )


def _timestamp(value: object) -> datetime.datetime:
    # Until the year 9999: what Python's datetime holds.
    if not isinstance(value, int) or not 0 < value < 253_402_300_800_000:
        raise _malformed("timestamp", "milliseconds since 1970", str(value)[:20])
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return start + datetime.timedelta(milliseconds=value)


def _pcrs(value: object) -> Mapping[int, bytes]:
    if not isinstance(value, dict) or not 0 < len(value) <= PCRS:
        raise _malformed("pcrs", f"a map of 1 to {PCRS} registers", type(value).__name__)
    for number, register in value.items():
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < PCRS:
            raise _malformed("pcrs", f"numbers from 0 to {PCRS - 1}", str(number)[:20])
        if not isinstance(register, bytes) or len(register) not in _PCR_SIZES:
            raise _malformed(f"pcr{number}", "32, 48 or 64 bytes", type(register).__name__)
    return MappingProxyType(dict(value))


def _bytes(field: str, value: object, limit: int) -> bytes:
    if not isinstance(value, bytes) or not 0 < len(value) <= limit:
        raise _malformed(field, f"1 to {limit} bytes", type(value).__name__)
    return value


def _optional(field: str, value: object, limit: int) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) > limit:
        raise _malformed(field, f"at most {limit} bytes, or null", type(value).__name__)
    return value


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "nitro.malformed",
        f"the Nitro document has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
