"""Key files: brokers' identity keys, and what any key file holds, without the key itself."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import UsageError
from casemate.image.keys import key_fingerprint, read_key_file
from casemate.project.files import read_file
from casemate.tee.identity_key import IdentityKey
from casemate.types import Secret, Sha256, sha256

IMAGE_KEY_SIZES = {"image": 32, "occlum": 16}
"""Kinds of image keys, each with its size in bytes."""
_PRIVATE = b"-----BEGIN PRIVATE KEY-----"
_PUBLIC = b"-----BEGIN PUBLIC KEY-----"


def make_identity_key() -> tuple[Secret, bytes]:
    """A new identity key: the private key (PKCS #8) and the public key, both in PEM."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Secret(private), public


def load_public_key(
    path: Path, *, code: str = "contract.broker-key", field: str = "broker.key-file"
) -> bytes:
    """Read the public key of an identity key: DER SubjectPublicKeyInfo.

    Args:
        path: its file.
        code: of the error.
        field: what the user calls it.

    Raises:
        UsageError: it can't be read, or holds something else.
    """
    remedy = "Give the file that ends in .pub, which casemate key new --for identity makes."
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise UsageError(
            code,
            f"{path} can't be read as a public key",
            field=field,
            expected="an Ed25519 public key in PEM",
            got=error.strerror or str(error) if isinstance(error, OSError) else "something else",
            remedy=remedy,
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(
            code,
            f"{path} holds a key of another kind",
            field=field,
            expected="an Ed25519 public key in PEM",
            got=type(key).__name__,
            remedy=remedy,
        )
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def read_key_hash(path: Path, *, field: str) -> Sha256:
    """SHA-256 of the SubjectPublicKeyInfo of a certificate's key, or of a public key.

    Args:
        path: PEM or DER.
        field: what the user calls it.

    Raises:
        UsageError: it can't be read.
        MalformedError: ``endorsements.*`` where it is neither, or several.
    """
    found = sort_endorsements([(str(path), read_file(path, field=field))])
    keys = [
        each.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for each in found.certificates
    ] + list(found.keys)
    if len(keys) != 1:
        raise UsageError(
            "verify.key",
            f"{path} doesn't hold one key",
            field=field,
            expected="a certificate or a public key",
            got=f"{len(keys)} keys",
        )
    return sha256(keys[0])


def load_identity_key(path: Path) -> IdentityKey:
    """Read an identity key's file.

    Raises:
        UsageError: it can't be read, or holds something else.
    """
    try:
        return IdentityKey(Secret(path.read_bytes()))
    except OSError as error:
        raise UsageError(
            "tee.identity-key",
            f"the identity key {path} can't be read",
            field="--identity",
            got=error.strerror or str(error),
            remedy=f"Make one with: casemate key new --for identity {path}",
        ) from error


def describe_key_file(path: Path) -> dict[str, str | int]:
    """What a key file holds: its kind, its size, and a fingerprint that equal keys share.

    Raises:
        UsageError, MalformedError: it can't be read, or holds no key.
    """
    content = read_file(path, field="key")
    if content.startswith(_PRIVATE):
        spki = load_identity_key(path).spki
        return {"file": str(path), "kind": "identity", "fingerprint": str(sha256(spki))}
    if content.startswith(_PUBLIC):
        spki = load_public_key(path)
        return {"file": str(path), "kind": "identity, public", "fingerprint": str(sha256(spki))}
    key = read_key_file(path)
    return {
        "file": str(path),
        "kind": {size: kind for kind, size in IMAGE_KEY_SIZES.items()}[len(key)],
        "bytes": len(key),
        "fingerprint": key_fingerprint(key),
    }
