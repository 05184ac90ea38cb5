"""What a policy can constrain: one table a TEE. Adding a TEE adds a table, not code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from casemate.evidence import Tee


class Kind(StrEnum):
    """The type of a claim, and with it how a policy writes and compares it."""

    DIGEST = "digest"
    """Bytes of a fixed length, written as hex."""
    PUBLIC_KEY = "public-key"
    """The policy names an Ed25519 SubjectPublicKeyInfo (DER) in hex; the claim is its SHA-256."""
    UINT = "uint"
    """0 to 2^63 - 1."""
    BOOL = "bool"
    """Only ``exactly``: any of both would be no check."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A claim that a policy must take a stand on.

    Args:
        name: as in the evidence's claims and in the policy.
        kind: its type.
        length: of a digest, in bytes.
        must_check: whether ``unchecked`` is refused: what a policy can't do without.
        remedy: what to do about a mismatch.
    """

    name: str
    kind: Kind
    remedy: str
    length: int = 0
    must_check: bool = False


_LAUNCH = Field(
    name="launch",
    kind=Kind.DIGEST,
    length=48,
    remedy="The launcher was given another launch contract. Name this digest only if that "
    "contract is the intended one (casemate contract show).",
)

FIELDS: Mapping[Tee, tuple[Field, ...]] = MappingProxyType(
    {
        Tee.SIMULATED: (
            Field(
                name="root",
                kind=Kind.PUBLIC_KEY,
                must_check=True,
                remedy="Name the development root's public key, if this is a development machine.",
            ),
            Field(
                name="measurement",
                kind=Kind.DIGEST,
                length=48,
                must_check=True,
                remedy="The launcher's code is not the one that the policy was written for. "
                "Name this measurement only if the change is yours.",
            ),
            Field(
                name="debug",
                kind=Kind.BOOL,
                must_check=True,
                remedy="Don't release secrets to a launcher that can be looked into.",
            ),
            Field(name="svn", kind=Kind.UINT, remedy="Update the launcher."),
            Field(
                name="platform_id",
                kind=Kind.DIGEST,
                length=32,
                remedy="Add the platform, if it is one that you know.",
            ),
            _LAUNCH,
        ),
        Tee.IDENTITY_KEY: (
            Field(
                name="key",
                kind=Kind.PUBLIC_KEY,
                must_check=True,
                remedy="Name the peer's identity key, if it is the intended peer.",
            ),
            _LAUNCH,
        ),
    }
)
"""The fields of each TEE. Every alternative for a TEE must name every one of its fields."""
