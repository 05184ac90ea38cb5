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
    """A list: ``only`` names what may be in it, ``none_of`` what may not, ``exactly`` all of it."""
    LEVELS = "levels"
    """Security versions by component: ``at_least`` names a minimum for each of some."""
    SVNS = "svns"
    """Bytes of a fixed length, each the security version of a component, written as hex."""
    FLAGS = "flags"
    """Bits: bytes of a fixed length, written as hex. ``bits`` says which must be set or clear."""
    WORD = "word"
    """Bits in an unsigned integer. ``bits`` says which must be set or clear."""
    VERSION = "version"
    """Numbers with dots between them, compared one after the other."""
    DATE = "date"
    """A day, ``2026-11-25``, in UTC."""
    DATA = "data"
    """Bytes of any length up to 1024, written as hex."""


class Varies(StrEnum):
    """Why genuine evidence of the same code may differ in a field, as a reason in a policy."""

    MACHINE = "differs from machine to machine"
    BOOT = "can differ from boot to boot"
    MOMENT = "says when the evidence was made and looked at"
    OCCASION = "belongs to one occasion; what evidence binds is checked apart"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A claim that a policy must take a stand on.

    Args:
        name: as in the evidence's claims and in the policy.
        kind: its type.
        lengths: of bytes, one of these.
        must_check: whether ``unchecked`` is refused: what a policy can't do without.
        instead: the field that may be named in place of one that must be checked.
        remedy: what to do about a mismatch.
        default: what it must be where a policy says nothing about it.
        optional: whether genuine evidence may lack it, so that ``absent`` can hold.
        given: whether it is known only where the verifier is given more than the evidence.
        varies: why other genuine evidence of the same code may differ here, if it may: a policy
            made from one piece of evidence then doesn't pin it.
        rises: whether more is better: a policy made from evidence then demands as much or more.
        strict: what a policy made from evidence demands, whatever the evidence says.
        limit: the most that a policy made from evidence allows, whatever the evidence says.
    """

    name: str
    kind: Kind
    remedy: str
    lengths: tuple[int, ...] = ()
    must_check: bool = False
    instead: str | None = None
    default: str | int | None = None
    optional: bool = False
    given: bool = False
    varies: Varies | None = None
    rises: bool = False
    strict: str | None = None
    limit: int | None = None


LAUNCH = Field(
    name="launch",
    kind=Kind.DIGEST,
    lengths=(48,),
    optional=True,
    remedy="The launcher was given another launch contract. Name this digest only if that "
    "contract is the intended one (casemate contract show).",
)
