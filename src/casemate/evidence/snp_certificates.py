"""The certificate table that a host hands to SEV-SNP guests beside their reports.

Source: AMD, "SEV-ES Guest-Hypervisor Communication Block Standardization", revision 2.03, section
4.1.8.1: entries of GUID, offset and length, the last one zero; offsets count from the table's
start. Integers are little-endian, GUIDs stand in the order of their text.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import ByteReader
from casemate.errors import MalformedError

MAX_SIZE = 64 * 1024
_MAX_ENTRIES = 32
_MAX_CONTENT = 16 * 1024
_GUID_SIZE = 16
_ENTRY_SIZE = 24

VCEK = "63da758de6644564adc5f4b93be8accd"
VLEK = "a8074bc2a25a483eaae639c045a0b8a1"
ASK = "4ab7b379bbac4fe4a02f05aef327c782"
ARK = "c0b406a4a803495297433fb6014cd0ae"
CRL = "92f81bc358114d3d97ffd19f88dc67ea"
_CHAIN = (VCEK, VLEK, ASK, ARK)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpCertificates:
    """What a table holds, unparsed and not trusted.

    Args:
        chain: the chip's or the provider's certificate and its issuers, leaf first.
        revocation_lists: of their issuers.
        unknown: GUIDs of entries that aren't known, in hex.
    """

    chain: tuple[bytes, ...]
    revocation_lists: tuple[bytes, ...]
    unknown: tuple[str, ...]


def parse_certificate_table(data: bytes) -> SnpCertificates:
    """Parse a table.

    Args:
        data: at most 64 KiB; nothing, or zeros, where the host gives no certificates.

    Raises:
        MalformedError: ``snp.certificate-table``, ``encoding.truncated``.

    Does not check: the certificates (`casemate.verify.snp`).
    """
    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    found: dict[str, bytes] = {}
    for guid, offset, length in _entries(data):
        if guid in found:
            raise _malformed("GUID", "each once", f"{guid} twice")
        if not 0 < length <= _MAX_CONTENT or offset + length > len(data):
            raise _malformed(guid, f"1 to {_MAX_CONTENT} bytes within the table", f"{length} bytes")
        found[guid] = data[offset : offset + length]
    return SnpCertificates(
        chain=tuple(found[guid] for guid in _CHAIN if guid in found),
        revocation_lists=tuple(found[guid] for guid in (CRL,) if guid in found),
        unknown=tuple(guid for guid in found if guid not in (*_CHAIN, CRL)),
    )


def _entries(data: bytes) -> list[tuple[str, int, int]]:
    entries: list[tuple[str, int, int]] = []
    r = ByteReader(data, what="certificate table")
    while r.remaining:
        guid = r.take(_GUID_SIZE, "GUID")
        offset, length = r.uint(4, "offset"), r.uint(4, "length")
        if not any(guid):
            if offset or length:
                raise _malformed("last entry", "zeros", f"offset {offset}, length {length}")
            break
        if len(entries) == _MAX_ENTRIES:
            raise _malformed("entries", f"at most {_MAX_ENTRIES}", "more")
        entries.append((guid.hex(), offset, length))
    else:
        if entries:
            raise _malformed("last entry", "zeros", "none")
    end = (len(entries) + 1) * _ENTRY_SIZE
    for name, offset, _ in entries:
        if offset < end:
            raise _malformed(name, f"an offset from {end}, behind the entries", str(offset))
    return entries


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "snp.certificate-table",
        f"the certificate table has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
