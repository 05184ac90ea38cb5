"""Sealed images made step by step from the specification, in memory, with room for faults.

Written apart from ``casemate.image.seal`` on purpose: what both make must be the same file. It
uses none of its code, only the two ciphers.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, replace

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

CHUNK = 65536
BLOCK = 4096 * 16
LABEL = b"casemate sealed image/2 "
MAGIC = bytes.fromhex("89434153454d0d0a")


def cbor(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def chunks(data: bytes) -> list[bytes]:
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]


def hkdf(key: bytes, salt: bytes, purpose: bytes, length: int = 32) -> bytes:
    return HKDF(algorithm=SHA384(), length=length, salt=salt, info=LABEL + purpose).derive(key)


def record(
    path: bytes,
    kind: int = 0,
    *,
    offset: int = 0,
    size: int = 0,
    target: bytes = b"",
    xattrs: bytes = b"",
    mode: int = 0o644,
    reserved: int = 0,
    mtime: int = 0,
) -> tuple[bytes, bytes]:
    """One entry of a table of contents: its record and its texts."""
    fixed = bytes([kind, reserved]) + mode.to_bytes(2, "big") + bytes(8) + mtime.to_bytes(8, "big")
    fixed += offset.to_bytes(8, "big") + size.to_bytes(8, "big")
    for text in (path, target, xattrs):
        fixed += len(text).to_bytes(4, "big")
    return fixed, path + target + xattrs


def toc(*records: tuple[bytes, bytes]) -> bytes:
    head = len(records).to_bytes(4, "big")
    return head + b"".join(r for r, _ in records) + b"".join(t for _, t in records)


@dataclass(frozen=True)
class Forged:
    """The parts of an image file; change any, then take the bytes."""

    fields: dict[str, object]
    slot: bytes
    sealed: tuple[bytes, ...]
    tags: tuple[bytes, ...]
    magic: bytes = MAGIC
    padding: bytes = b""
    header: bytes | None = None

    def header_bytes(self) -> bytes:
        if self.header is not None:
            return self.header
        tags_digest = hashlib.sha384(self.digests()).digest()
        return cbor({**self.fields, "tags-digest": tags_digest})

    def digests(self) -> bytes:
        tags = b"".join(self.tags)
        blocks = [tags[at : at + BLOCK] for at in range(0, len(tags), BLOCK)]
        return b"".join(hashlib.sha384(block).digest() for block in blocks)

    def id(self) -> str:
        return hashlib.sha384(self.header_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        header = self.header_bytes()
        start = self.magic + len(header).to_bytes(4, "big") + header + self.slot + self.padding
        end = b"".join(self.sealed) + b"".join(self.tags) + self.digests()
        return start.ljust(4096, b"\0") + end

    def with_fields(self, **fields: object) -> Forged:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        return replace(self, fields={**self.fields, **named})


def forge(
    payload: bytes, contents: bytes, key: bytes, *, content_key: bytes | None = None
) -> Forged:
    """Seal a payload and a table of contents, whatever they are, as the specification says."""
    plain = chunks(payload) + chunks(contents)
    parameters: dict[str, object] = {
        "version": 2,
        "cipher": "aes-256-gcm",
        "chunk-size": CHUNK,
        "payload-size": len(payload),
        "toc-size": len(contents),
    }
    digester = AESGCM(hkdf(key, b"", b"digest"))
    digests = [digester.encrypt(i.to_bytes(12, "big"), b"", c) for i, c in enumerate(plain)]
    digest = hashlib.sha256(b"".join(digests)).digest()
    message = LABEL + b"salt\0" + cbor({**parameters, "content-digest": digest})
    salt = hmac.digest(key, message, "sha384")[:32]
    content = content_key or hkdf(key, salt, b"content")
    fields = {**parameters, "salt": salt, "key-commitment": hkdf(content, salt, b"commitment")}
    binding = hashlib.sha384(cbor(fields)).digest()
    cipher = AESGCM(content)
    both = [cipher.encrypt(i.to_bytes(12, "big"), c, binding) for i, c in enumerate(plain)]
    return Forged(
        fields=fields,
        slot=aes_key_wrap(hkdf(key, salt, b"slot"), content),
        sealed=tuple(b[:-16] for b in both),
        tags=tuple(b[-16:] for b in both),
    )
