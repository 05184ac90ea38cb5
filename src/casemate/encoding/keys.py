"""Public keys as they travel: one key, one encoding."""

from __future__ import annotations

from casemate.errors import MalformedError

_PREFIX = bytes.fromhex("302a300506032b6570032100")
_KEY_SIZE = 32


def decode_ed25519_spki(spki: bytes, *, field: str) -> bytes:
    """The 32 bytes of an Ed25519 public key.

    Args:
        spki: SubjectPublicKeyInfo, DER: 44 bytes, of which the key's are the last 32.
        field: the field's name, for messages.

    Raises:
        MalformedError: ``encoding.public-key``.

    Source: RFC 8410, section 4. Keys are compared as these bytes, so no other form passes.
    """
    if len(spki) != len(_PREFIX) + _KEY_SIZE or not spki.startswith(_PREFIX):
        raise MalformedError(
            "encoding.public-key",
            f"{field} is not an Ed25519 public key",
            field=field,
            expected="SubjectPublicKeyInfo, DER, Ed25519 (44 bytes)",
            got=f"{len(spki)} bytes",
        )
    return spki[len(_PREFIX) :]
