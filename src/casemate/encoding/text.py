"""Hexadecimal and base64, without the leniency of the standard library's decoders."""

from __future__ import annotations

import base64
import binascii
import re

from casemate.errors import MalformedError

_HEX = re.compile(r"(?:[0-9a-f]{2})*\Z", re.ASCII | re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}\Z", re.ASCII)


def decode_hex(text: str, *, field: str, length: int | None = None) -> bytes:
    """Decode hexadecimal digits in pairs, no spaces, either case.

    Args:
        text: the digits.
        field: the field's name, for messages.
        length: how many bytes it must give, if fixed.

    Raises:
        MalformedError: ``encoding.hex``.
    """
    if not _HEX.match(text) or (length is not None and len(text) != 2 * length):
        wanted = "hexadecimal digits in pairs" if length is None else f"{2 * length} hex digits"
        raise MalformedError(
            "encoding.hex",
            f"{field} is not hexadecimal of the right length",
            field=field,
            expected=wanted,
            got=f"{len(text)} characters",
        )
    return bytes.fromhex(text)


def decode_base64(text: str, *, field: str) -> bytes:
    """Decode canonical base64 (RFC 4648, section 4), padding required, no other characters.

    Raises:
        MalformedError: ``encoding.base64``.
    """
    try:
        if not _BASE64.match(text):
            raise ValueError("a character outside the alphabet")
        value = base64.b64decode(text, validate=True)
        if base64.b64encode(value).decode() != text:
            raise ValueError("trailing bits that aren't zero")
    except (ValueError, binascii.Error) as error:
        raise MalformedError(
            "encoding.base64",
            f"{field} is not canonical base64",
            field=field,
            expected="RFC 4648 base64 with padding",
            got=str(error),
        ) from error
    return value
