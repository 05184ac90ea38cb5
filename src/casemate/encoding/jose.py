"""JSON Web Signatures in compact form, without what makes them dangerous.

 1. Three parts, each canonical base64url without padding; nothing before, between or after.
 2. The header is a JSON object without duplicate keys, and its algorithm is one of those that the
    caller takes: ``none`` and keys shared by both sides are no choices.
 3. A header that says it must be understood in some other way (``crit``, ``b64``, ``zip``) is
    refused. Keys, and places to fetch keys from (``jwk``, ``jku``, ``x5c``, ``x5u``), are never
    looked at: who signs doesn't say whose key it is.

Source: RFC 7515, section 7.1; RFC 8725, "JSON Web Token Best Current Practices".
Does not check: the signature (`casemate.verify.jws`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding.jsontext import JsonValue, decode_json
from casemate.errors import MalformedError

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""All that exist here: each with a public key of its own kind."""
COMPACT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\s*\Z", re.ASCII)
"""The form alone, for whoever must tell tokens from other things."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z", re.ASCII)
_CHANGES_MEANING = ("crit", "b64", "zip", "enc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Jws:
    """A signature and what it covers; nothing is verified yet.

    Args:
        algorithm: one of `ALGORITHMS`.
        key_id: names the key, if the header does.
        media_type: the header's ``typ``, if any.
        payload: what was signed, decoded.
        signed: the very bytes that the signature covers.
        signature: raw, as the algorithm gives it.
    """

    algorithm: str
    key_id: str | None
    media_type: str | None
    payload: bytes
    signed: bytes
    signature: bytes


def parse_jws(data: bytes, *, what: str, max_size: int) -> Jws:
    """Parse a compact JWS.

    Args:
        data: ASCII; at most ``max_size`` bytes.
        what: what it is, for messages.
        max_size: in bytes.

    Raises:
        MalformedError: ``encoding.jws``, ``encoding.base64``, ``encoding.json``,
            ``encoding.too-large``.
    """
    if len(data) > max_size:
        raise MalformedError(
            "encoding.too-large", f"the {what} is too large", field=what,
            expected=f"at most {max_size} bytes", got=f"{len(data)} bytes",
        )  # fmt: skip
    if not COMPACT.match(data) or data != data.strip():  # Rule 1.
        raise _malformed(what, "three parts of base64url with dots between", "something else")
    head, body, tail = data.decode("ascii").split(".")
    header = decode_json(
        decode_base64url(head, field=f"{what}.header"), what=f"{what}.header", max_size=max_size
    )
    if not isinstance(header, dict):
        raise _malformed(f"{what}.header", "an object", type(header).__name__)
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS or not isinstance(algorithm, str):  # Rule 2.
        raise _malformed(f"{what}.header.alg", " or ".join(ALGORITHMS), str(algorithm)[:32])
    if found := [name for name in _CHANGES_MEANING if name in header]:  # Rule 3.
        raise _malformed(f"{what}.header", "nothing that changes what is signed", found[0])
    return Jws(
        algorithm=algorithm,
        key_id=_text(header, "kid", what),
        media_type=_text(header, "typ", what),
        payload=decode_base64url(body, field=f"{what}.payload"),
        signed=f"{head}.{body}".encode("ascii"),
        signature=decode_base64url(tail, field=f"{what}.signature"),
    )


def signing_input(header: Mapping[str, JsonValue], payload: Mapping[str, JsonValue]) -> bytes:
    """What is to be signed for a token with these claims: header and payload, encoded."""
    parts = (json.dumps(part, separators=(",", ":"), allow_nan=False) for part in (header, payload))
    return ".".join(encode_base64url(part.encode()) for part in parts).encode("ascii")


def compact(signed: bytes, signature: bytes) -> bytes:
    """The token, from what was signed and the signature."""
    return signed + b"." + encode_base64url(signature).encode("ascii")


def decode_claims(jws: Jws, *, what: str) -> Mapping[str, JsonValue]:
    """The payload as a JSON object.

    Raises:
        MalformedError: ``encoding.json``, or ``encoding.jws`` where it is no object.
    """
    value = decode_json(jws.payload, what=f"{what}.payload", max_size=len(jws.payload))
    if not isinstance(value, dict):
        raise _malformed(f"{what}.payload", "an object", type(value).__name__)
    return MappingProxyType(value)


def decode_base64url(text: str, *, field: str) -> bytes:
    """Decode canonical base64url (RFC 4648, section 5) without padding.

    Raises:
        MalformedError: ``encoding.base64``; unused bits that aren't zero too.
    """
    try:
        if not _BASE64URL.match(text):
            raise ValueError("a character outside the alphabet")
        value = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if encode_base64url(value) != text:
            raise ValueError("trailing bits that aren't zero")
    except (ValueError, binascii.Error) as error:
        raise MalformedError(
            "encoding.base64",
            f"{field} is not canonical base64url",
            field=field,
            expected="RFC 4648 base64url without padding",
            got=str(error),
        ) from error
    return value


def encode_base64url(value: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode("ascii")


def _text(header: Mapping[str, JsonValue], name: str, what: str) -> str | None:
    value = header.get(name)
    if name in header and not isinstance(value, str):
        raise _malformed(f"{what}.header.{name}", "a text", type(value).__name__)
    return value if isinstance(value, str) else None


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "encoding.jws",
        f"{field} isn't part of a signed token that is taken here",
        field=field,
        expected=expected,
        got=got,
    )
