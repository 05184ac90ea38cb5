"""Kinds of claims, and what a policy knows of each field."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
    TEXT = "text"
    """At most 256 characters."""
    TEXTS = "texts"
    """A list: ``only`` names what may be in it."""
    LEVELS = "levels"
    """Security versions by component: ``at_least`` names a minimum for each of some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A claim that a policy must take a stand on.

    Args:
        name: as in the evidence's claims and in the policy.
        kind: its type.
        length: of a digest, in bytes.
        must_check: whether ``unchecked`` is refused: what a policy can't do without.
        remedy: what to do about a mismatch.
        default: of a text, what it must be where a policy says nothing about it.
    """

    name: str
    kind: Kind
    remedy: str
    length: int = 0
    must_check: bool = False
    default: str | None = None


LAUNCH = Field(
    name="launch",
    kind=Kind.DIGEST,
    length=48,
    remedy="The launcher was given another launch contract. Name this digest only if that "
    "contract is the intended one (casemate contract show).",
)
