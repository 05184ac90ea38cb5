"""Keys of sealed images: their files, what is derived from them, and the key slot."""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import (
    InvalidUnwrap,
    aes_key_unwrap,
    aes_key_wrap,
)

from casemate.encoding import encode_cbor
from casemate.errors import MalformedError, NotGenuineError, UsageError
from casemate.image.format import associated_data, parameters
from casemate.types import Secret, Sha256

KEY_SIZES = (16, 32)
_MAX_KEY_FILE = 3 * max(KEY_SIZES)
_KEY_FILE = re.compile(rb"[0-9a-f]{2}(?:-[0-9a-f]{2})*\n\Z")
_LABEL = b"casemate sealed image/2 "


def generate_key(
    size: int = 32, *, randomness: Callable[[int], bytes] = secrets.token_bytes
) -> Secret:
    """A new image key.

    Args:
        size: 32 bytes, or 16 as Occlum's keys are.
        randomness: gives that many random bytes; the operating system's by default.
    """
    _check_size(size)
    return Secret(randomness(size))


def encode_key_file(key: Secret) -> Secret:
    """The text of a key file, which is also what a broker releases: ``xx-xx-…`` and a newline."""
    _check_size(len(key))
    return Secret(key.reveal().hex("-").encode() + b"\n")


def parse_key_file(data: bytes) -> Secret:
    """Read a key file: 16 or 32 bytes as pairs of lower-case hex digits joined by ``-``, newline.

    Raises:
        MalformedError: ``image.key-file``. The message never quotes the file.
    """
    if not _KEY_FILE.match(data) or (len(data) // 3) not in KEY_SIZES:
        raise MalformedError(
            "image.key-file",
            "this is not an image key file",
            field="key file",
            expected="16 or 32 pairs of lower-case hex digits joined by '-', and a newline",
            got=f"{len(data)} bytes of something else",
            remedy="Make one with `casemate key new FILE`.",
        )
    return Secret(bytes.fromhex(data[:-1].replace(b"-", b"").decode()))


def key_fingerprint(key: Secret) -> str:
    """A name for a key that tells nothing about it: 16 hex digits, by a one-way function."""
    _check_size(len(key))
    return _derive(key.reveal(), salt=b"", purpose=b"fingerprint", length=8).hex()


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentKey:
    """The key of one image's content, and what follows from it.

    Args:
        value: 32 bytes.
        salt: the image's salt.
        commitment: what the header says of the key, 32 bytes; AES-GCM alone doesn't commit.
    """

    value: Secret
    salt: bytes
    commitment: bytes = field(repr=False)

    def associated_data(self, *, payload_size: int, toc_size: int) -> bytes:
        """What every chunk under this key is bound to."""
        return associated_data(
            salt=self.salt,
            payload_size=payload_size,
            toc_size=toc_size,
            key_commitment=self.commitment,
        )


def digest_key(key: Secret) -> Secret:
    """The key of the digests that a sealer takes of its chunks; the same for all its images.

    Source: specs/sealed-image.md, "Keys".
    """
    _check_size(len(key))
    return Secret(_derive(key.reveal(), salt=b"", purpose=b"digest", length=32))


def derive_content_key(
    key: Secret, *, content_digest: Sha256, payload_size: int, toc_size: int
) -> ContentKey:
    """The content key for one content under one image key: the same for the same two.

    Everything that decides which bytes meet which nonce goes into the salt, so that no two
    contents ever share a content key.

    Source: specs/sealed-image.md, "Keys".
    """
    _check_size(len(key))
    fields = parameters(payload_size=payload_size, toc_size=toc_size)
    message = encode_cbor({**fields, "content-digest": bytes(content_digest)})
    salt = hmac.digest(key.reveal(), _LABEL + b"salt\0" + message, "sha384")[:32]
    value = Secret(_derive(key.reveal(), salt=salt, purpose=b"content", length=32))
    return ContentKey(value=value, salt=salt, commitment=_commitment(value, salt))


def wrap_content_key(content: ContentKey, key: Secret) -> bytes:
    """The key slot: the content key wrapped under ``key``, 40 bytes (RFC 3394)."""
    return aes_key_wrap(_slot_key(key, content.salt), content.value.reveal())


def unwrap_content_key(slot: bytes, key: Secret, *, salt: bytes, commitment: bytes) -> ContentKey:
    """The content key out of a slot.

    Args:
        slot: 40 bytes, from the image file or rewrapped by whoever changed the key.
        key: the image key that the slot is for.
        salt: from the header.
        commitment: from the header.

    Raises:
        NotGenuineError: ``image.wrong-key`` where the slot doesn't open under ``key``,
            ``image.key-commitment`` where it opens but holds another image's key.
    """
    _check_size(len(key))
    try:
        value = Secret(aes_key_unwrap(_slot_key(key, salt), slot))
    except (InvalidUnwrap, ValueError) as error:
        raise NotGenuineError(
            "image.wrong-key",
            "the key doesn't open this image",
            field="key-slot",
            expected="a slot wrapped under this key",
            got="a slot that doesn't unwrap",
            remedy="Use the key that the image was sealed with; compare `casemate key show`.",
        ) from error
    if not hmac.compare_digest(_commitment(value, salt), commitment):
        raise NotGenuineError(
            "image.key-commitment",
            "the image's key slot holds the key of another image",
            field="key-commitment",
            expected="the header's commitment",
            got="another",
            remedy="Get the image again from whoever sealed it.",
        )
    return ContentKey(value=value, salt=salt, commitment=commitment)


def _slot_key(key: Secret, salt: bytes) -> bytes:
    return _derive(key.reveal(), salt=salt, purpose=b"slot", length=32)


def _commitment(value: Secret, salt: bytes) -> bytes:
    return _derive(value.reveal(), salt=salt, purpose=b"commitment", length=32)


def _derive(key: bytes, *, salt: bytes, purpose: bytes, length: int) -> bytes:
    return HKDF(algorithm=SHA384(), length=length, salt=salt, info=_LABEL + purpose).derive(key)


def _check_size(size: int) -> None:
    if size not in KEY_SIZES:
        raise MalformedError(
            "image.key-size",
            "an image key has 16 or 32 bytes",
            field="key",
            expected="16 or 32 bytes",
            got=f"{size} bytes",
            remedy="Make one with `casemate key new FILE`.",
        )


def read_key_file(path: Path) -> Secret:
    """Read an image key from a file.

    Raises:
        UsageError: ``image.key-unreadable``.
        MalformedError: ``image.key-file``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_FILE + 1)
    except OSError as error:
        raise UsageError(
            "image.key-unreadable",
            f"the key file {path} can't be read",
            field=str(path),
            got=os.strerror(error.errno or 0),
            remedy="Check the name and the permissions, or make one with `casemate key new FILE`.",
        ) from error
    try:
        return parse_key_file(data)
    except MalformedError as error:
        error.message = f"{path}: {error.message}"
        raise
