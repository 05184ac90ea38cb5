"""The sealed image's bytes: prologue, header and table of contents (specs/sealed-image.md).

No I/O here: bytes in, values out, and back. What parses encodes to the same bytes again.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from casemate.encoding import ByteReader, MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.image.tree import MAX_PATH, MODE_BITS, EntryKind
from casemate.types import Sha384, sha384

MAGIC = b"\x89CASEM\r\n"
VERSION = 2
CIPHER = "aes-256-gcm"
CHUNK_SIZE = 64 * 1024
TAG_SIZE = 16
TAGS_IN_BLOCK = 4096
BLOCK_DIGEST_SIZE = 48
SLOT_SIZE = 40
PAYLOAD_START = 4096
MAX_HEADER = 2048
MAX_CHUNKS = 1 << 32
MAX_TOC = 1 << 30

_RECORD = struct.Struct(">BxHIIQQQIII")
_KINDS = (EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.SYMLINK, EntryKind.HARDLINK)
_CODES = {kind: code for code, kind in enumerate(_KINDS)}
_NONCE = struct.Struct(">4xQ")
_PART = rb"(?!\.{1,2}(?:/|\Z))[^/\0]{1,255}"
_PATH = re.compile(_PART + rb"(?:/" + _PART + rb")*\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a sealed image says of itself; its digest is the image's id.

    Args:
        salt: 32 bytes, from which the content key was derived.
        payload_size: of the tar archive, in bytes.
        toc_size: of the table of contents, in bytes, without tags.
        key_commitment: 32 bytes that only the right content key gives.
        tags_digest: SHA-384 of the table of digests, each of a block of tags.
    """

    salt: bytes
    payload_size: int
    toc_size: int
    key_commitment: bytes
    tags_digest: Sha384

    @property
    def payload_chunks(self) -> int:
        """How many chunks the payload has."""
        return -(-self.payload_size // CHUNK_SIZE)

    @property
    def chunks(self) -> int:
        """How many chunks the payload and the table of contents have together."""
        return self.payload_chunks + -(-self.toc_size // CHUNK_SIZE)

    @property
    def tags_start(self) -> int:
        """Where the table of tags begins in the file."""
        return PAYLOAD_START + self.payload_size + self.toc_size

    @property
    def digests_start(self) -> int:
        """Where the table of digests begins in the file."""
        return self.tags_start + TAG_SIZE * self.chunks

    @property
    def tag_blocks(self) -> int:
        """How many blocks the table of tags has, and so how many digests there are."""
        return -(-self.chunks // TAGS_IN_BLOCK)

    @property
    def file_size(self) -> int:
        """How long the file is, in bytes."""
        return self.digests_start + BLOCK_DIGEST_SIZE * self.tag_blocks

    def tag_block_span(self, block: int) -> tuple[int, int]:
        """Where a block of the table of tags lies in the file: offset and length in bytes."""
        first = block * TAGS_IN_BLOCK
        count = min(TAGS_IN_BLOCK, self.chunks - first)
        return self.tags_start + TAG_SIZE * first, TAG_SIZE * count

    def chunk_span(self, index: int) -> tuple[int, int]:
        """Where chunk ``index`` lies in the file: offset and length in bytes."""
        if index < self.payload_chunks:
            start = index * CHUNK_SIZE
            return PAYLOAD_START + start, min(CHUNK_SIZE, self.payload_size - start)
        start = (index - self.payload_chunks) * CHUNK_SIZE
        return (
            PAYLOAD_START + self.payload_size + start,
            min(CHUNK_SIZE, self.toc_size - start),
        )


def chunk_nonces(first: int, count: int) -> Iterator[bytes]:
    """The nonces of ``count`` chunks from chunk ``first`` on: their numbers, in 12 bytes each."""
    return map(_NONCE.pack, range(first, first + count))


def block_digests(tags: bytes | bytearray) -> bytes:
    """The table of digests that goes with a table of tags: SHA-384 of each block."""
    size = TAGS_IN_BLOCK * TAG_SIZE
    return b"".join(sha384(bytes(tags[at : at + size])) for at in range(0, len(tags), size))


def parameters(*, payload_size: int, toc_size: int) -> dict[str, int | str]:
    """The header's fields that are known before any key: what salt and header begin with."""
    return {
        "version": VERSION,
        "cipher": CIPHER,
        "chunk-size": CHUNK_SIZE,
        "payload-size": payload_size,
        "toc-size": toc_size,
    }


def associated_data(
    *, salt: bytes, payload_size: int, toc_size: int, key_commitment: bytes
) -> bytes:
    """What every chunk is bound to: SHA-384 of the header without ``tags-digest``, 48 bytes."""
    fields = parameters(payload_size=payload_size, toc_size=toc_size)
    return sha384(encode_cbor({**fields, "salt": salt, "key-commitment": key_commitment}))


def encode_header(header: Header) -> bytes:
    """The header's bytes; SHA-384 of them is the image's id."""
    fields = parameters(payload_size=header.payload_size, toc_size=header.toc_size)
    return encode_cbor(
        {
            **fields,
            "salt": header.salt,
            "key-commitment": header.key_commitment,
            "tags-digest": bytes(header.tags_digest),
        }
    )


def parse_header(data: bytes) -> Header:
    """Read a header.

    Raises:
        MalformedError: ``encoding.*`` where it isn't the CBOR map that the specification
            describes, ``image.version`` for another version, cipher or chunk size,
            ``image.header`` for a value out of range.

    Source: specs/sealed-image.md, "Header".
    Does not check: that the file has the length the header implies.
    """
    fields = MapReader(
        decode_cbor(data, what="sealed image header", max_size=MAX_HEADER), what="header"
    )
    _constant("version", fields.take("version", int), VERSION)
    _constant("cipher", fields.take("cipher", str), CIPHER)
    _constant("chunk-size", fields.take("chunk-size", int), CHUNK_SIZE)
    header = Header(
        salt=_exactly("salt", fields.take("salt", bytes), 32),
        payload_size=_within("payload-size", fields.take("payload-size", int), 1024, 1 << 47),
        toc_size=_within("toc-size", fields.take("toc-size", int), 4, MAX_TOC),
        key_commitment=_exactly("key-commitment", fields.take("key-commitment", bytes), 32),
        tags_digest=Sha384(_exactly("tags-digest", fields.take("tags-digest", bytes), 48)),
    )
    fields.finish()
    _within("chunks", header.chunks, 1, MAX_CHUNKS)
    return header


@dataclass(frozen=True, slots=True, kw_only=True)
class Prologue:
    """The file's first 4096 bytes.

    Args:
        header: the header's bytes, undecoded: the id is their digest.
        slot: the content key, wrapped; 40 bytes. Not covered by the id.
    """

    header: bytes
    slot: bytes


def encode_prologue(prologue: Prologue) -> bytes:
    """The 4096 bytes before the payload."""
    parts = MAGIC + len(prologue.header).to_bytes(4, "big") + prologue.header + prologue.slot
    return parts.ljust(PAYLOAD_START, b"\0")


def parse_prologue(data: bytes) -> Prologue:
    """Read the first 4096 bytes of a file.

    Raises:
        MalformedError: ``image.magic`` where this is no sealed image, ``encoding.*`` where it is
            cut short or the padding isn't zero, ``image.header`` for a header too long.

    Source: specs/sealed-image.md, "Prologue".
    """
    if data[: len(MAGIC)] != MAGIC:
        raise MalformedError(
            "image.magic",
            "this is not a sealed image",
            field="magic",
            expected=MAGIC.hex(),
            # Not the bytes: where names were mixed up, they are a key's.
            got="something else" if data else "an empty file",
            remedy="Name a file that `casemate image seal` wrote.",
        )
    reader = ByteReader(data, what="sealed image prologue", byteorder="big")
    reader.expect(MAGIC, "magic")
    length = _within("header-length", reader.uint(4, "header-length"), 1, MAX_HEADER)
    prologue = Prologue(
        header=reader.take(length, "header"), slot=reader.take(SLOT_SIZE, "key-slot")
    )
    reader.zeros(PAYLOAD_START - len(MAGIC) - 4 - length - SLOT_SIZE, "padding")
    reader.finish()
    return prologue


class TocEntry(NamedTuple):
    """One entry of an image's table of contents; fields as in ``TreeEntry``.

    A tuple, because an image has thousands and opening one must take milliseconds.

    Args:
        offset: where a file's content lies in the payload, in bytes; 0 for other kinds.
    """

    path: str
    kind: EntryKind
    mode: int
    uid: int
    gid: int
    mtime: int
    offset: int
    size: int
    target: str
    xattrs: tuple[tuple[str, bytes], ...]


def encode_toc(entries: tuple[TocEntry, ...]) -> bytes:
    """The table of contents' bytes: count, fixed-size records, then the texts they count."""
    records = bytearray(len(entries).to_bytes(4, "big"))
    texts = bytearray()
    for entry in entries:
        path, target, xattrs = entry.path.encode(), entry.target.encode(), b""
        if entry.xattrs:
            xattrs = encode_cbor(dict(entry.xattrs))
        records += _RECORD.pack(
            _CODES[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime,
            entry.offset, entry.size, len(path), len(target), len(xattrs),
        )  # fmt: skip
        texts += path + target + xattrs
    return bytes(records + texts)


def parse_toc(data: bytes, *, payload_size: int) -> tuple[TocEntry, ...]:
    """Read a table of contents.

    Args:
        data: the decrypted table.
        payload_size: of the same image, in bytes: no content may reach beyond it.

    Raises:
        MalformedError: ``image.toc`` naming the entry's number and field, ``encoding.*``.

    Source: specs/sealed-image.md, "Table of contents".
    """
    count = ByteReader(data, what="table of contents", byteorder="big").uint(4, "count")
    position = 4 + count * _RECORD.size
    if position > len(data):
        raise _toc(0, "count", f"records within {len(data)} bytes", str(count))
    entries: list[TocEntry] = []
    kinds: dict[str, EntryKind] = {}
    last, used = b"", 0
    for index, record in enumerate(_RECORD.iter_unpack(data[4:position])):
        code, mode, uid, gid, mtime, offset, size, path_length, target_length, rest = record
        if data[4 + index * _RECORD.size + 1]:
            raise _toc(index, "reserved", "0", "another value")
        middle = position + path_length
        end = middle + target_length
        raw = data[position:middle]
        if end + rest > len(data) or path_length > MAX_PATH or not _PATH.match(raw):
            raise _toc(index, "path", "a plain relative path", repr(raw[:80]))
        if raw <= last:
            raise _toc(index, "path", "ascending order of bytes", repr(raw[:80]))
        if code >= len(_KINDS) or mode > MODE_BITS or mtime >= 1 << 33:
            raise _toc(index, "kind, mode or mtime", "values in range", f"{code} {mode} {mtime}")
        entry = TocEntry(
            _text(raw, index), _KINDS[code], mode, uid, gid, mtime, offset, size,
            _text(data[middle:end], index), _xattrs(data[end : end + rest], index),
        )  # fmt: skip
        _check_entry(entry, index, kinds, payload_size)
        if entry.kind is EntryKind.FILE:
            if offset <= used:
                raise _toc(index, "offset", f"content beyond {used}", str(offset))
            used = offset + size
        kinds[entry.path] = entry.kind
        entries.append(entry)
        last, position = raw, end + rest
    if position != len(data):
        raise _toc(count, "length", f"{position} bytes", f"{len(data)} bytes")
    return tuple(entries)


def _check_entry(
    entry: TocEntry, index: int, kinds: dict[str, EntryKind], payload_size: int
) -> None:
    parent = entry.path.rpartition("/")[0]
    if parent and kinds.get(parent) is not EntryKind.DIRECTORY:
        raise _toc(index, "path", "a parent that is a directory", parent[:80])
    if entry.kind is EntryKind.FILE:
        if entry.offset % 512 or entry.offset + entry.size > payload_size:
            raise _toc(index, "offset", "content within the payload", f"{entry.offset}")
    elif entry.offset or entry.size:
        raise _toc(index, "offset", "0 for what has no content", f"{entry.offset}")
    target = entry.target
    if entry.kind is EntryKind.HARDLINK:
        if kinds.get(target) is not EntryKind.FILE or entry.xattrs:
            raise _toc(index, "target", "an earlier file, and no attributes", target[:80])
    elif entry.kind is EntryKind.SYMLINK:
        if not target or "\0" in target or len(target.encode()) > MAX_PATH:
            raise _toc(index, "target", "1 to 4095 bytes without NUL", target[:80])
    elif target:
        raise _toc(index, "target", "none", target[:80])


def _xattrs(data: bytes, index: int) -> tuple[tuple[str, bytes], ...]:
    if not data:
        return ()
    value = decode_cbor(data, what="extended attributes", max_size=1 << 24)
    fields = MapReader(value, what=f"entry {index}")
    pairs = tuple((name, fields.take(name, bytes)) for name in sorted(fields.names()))
    for name, content in pairs:
        if not 0 < len(name.encode()) <= 255 or "\0" in name or "=" in name or len(content) > 65536:
            raise _toc(index, "xattrs", "names of 1 to 255 bytes, 64 KiB of value", ascii(name))
    if not pairs:
        raise _toc(index, "xattrs", "nothing at all rather than an empty map", "an empty map")
    return pairs


def _text(data: bytes, index: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _toc(index, "text", "UTF-8", repr(data[:80])) from error


def _toc(index: int, field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "image.toc",
        f"the image's table of contents is malformed at entry {index}",
        field=field,
        expected=expected,
        got=got,
        remedy="Seal the tree again; whoever made this image didn't follow the format.",
    )


def _constant(field: str, got: int | str, expected: int | str) -> None:
    if got != expected:
        raise MalformedError(
            "image.version",
            f"the sealed image has a {field} that this version doesn't know",
            field=f"header.{field}",
            expected=str(expected),
            got=str(got),
            remedy="Use the version of Casemate that sealed it, or seal it again.",
        )


def _within(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise _range(field, f"{least} to {most}", str(value))
    return value


def _exactly(field: str, value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise _range(field, f"{length} bytes", f"{len(value)} bytes")
    return value


def _range(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "image.header",
        f"the sealed image's {field} is out of range",
        field=f"header.{field}",
        expected=expected,
        got=got,
    )
