"""Hashing into the fixed-length types."""

from __future__ import annotations

import hashlib

from casemate.types.fixed import Sha256, Sha384


def sha256(data: bytes) -> Sha256:
    """SHA-256 of ``data``."""
    return Sha256(hashlib.sha256(data).digest())


def sha384(data: bytes) -> Sha384:
    """SHA-384 of ``data``."""
    return Sha384(hashlib.sha384(data).digest())
