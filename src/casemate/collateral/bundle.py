"""Signed bundles: collateral carried to where there is no connection (specs/collateral-bundle.md).

1. The signature holds under the key in the bundle, and that key is one that the reader names, if
   he names any.
2. The bundle was made, and hasn't ended.
3. Each part is checked as if its vendor had just sent it: the signature adds nothing to it. What it
   adds is that parts of several bundles can't be mixed, nor an old one shown as new.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from casemate.collateral.gather import Part
from casemate.collateral.names import wanted_of
from casemate.collateral.wanted import Wanted
from casemate.encoding import (
    MapReader,
    decode_cbor,
    decode_ed25519_spki,
    encode_cbor,
)
from casemate.errors import CasemateError, MalformedError, NotGenuineError, UnavailableError
from casemate.types import sha256
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots

MAX_SIZE = 16 << 20
FORMAT = "casemate-collateral-bundle/1"
_CONTEXT = f"{FORMAT}\0".encode()
_START = b"\xa4\x63key"
_MAX_PARTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A part as a bundle carries it.

    Args:
        name: of the part.
        asked: when it came from its service.
        parts: what came.
    """

    name: str
    asked: datetime.datetime
    parts: Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle whose signature holds.

    Args:
        key: of who signed it: SubjectPublicKeyInfo, DER.
        created: when it was made.
        expires: when it ends, whatever its parts say.
        entries: by name.
    """

    key: bytes
    created: datetime.datetime
    expires: datetime.datetime
    entries: Mapping[str, Entry]


def is_bundle(data: bytes) -> bool:
    """Whether a file is meant as a bundle, by how it begins."""
    return data.startswith(_START)


def make_bundle(
    parts: Iterable[Part],
    *,
    created: datetime.datetime,
    expires: datetime.datetime,
    key: bytes,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """Make a bundle.

    Args:
        parts: what it carries.
        created, expires: see `Bundle`; whole seconds count.
        key: the signer's, Ed25519: SubjectPublicKeyInfo, DER.
        sign: signs some bytes with it.
    """
    by_name = {each.wanted.name: each for each in parts}
    content = encode_cbor(
        {
            "created": int(created.timestamp()),
            "expires": int(expires.timestamp()),
            "parts": [
                {"name": name, "asked": int(each.asked.timestamp()), "parts": dict(each.parts)}
                for name, each in sorted(by_name.items())
            ],
        }
    )
    signature = sign(_CONTEXT + content)
    return encode_cbor({"format": FORMAT, "content": content, "key": key, "signature": signature})


def open_bundle(data: bytes, *, keys: Collection[bytes], at: datetime.datetime) -> Bundle:
    """Open a bundle.

    Args:
        data: at most 16 MiB.
        keys: of whose bundles are taken: SubjectPublicKeyInfo, DER. None named: anybody's, and only
            what vendors signed in it counts.
        at: the time.

    Raises:
        MalformedError: ``bundle.malformed``, ``encoding.*``.
        NotGenuineError: ``bundle.signature``, ``bundle.key``.
        UnavailableError: ``bundle.expired``.

    Does not check: the parts (`BundleStore`).
    """
    bundle = parse_bundle(data)
    if keys and bundle.key not in keys:  # 1
        raise NotGenuineError(
            "bundle.key",
            "somebody else made the bundle",
            field="key",
            expected=" or ".join(str(sha256(each)) for each in keys),
            got=str(sha256(bundle.key)),
            remedy="Name the key of who makes your bundles (--bundle-key).",
        )
    if not bundle.created <= at < bundle.expires:  # 2
        raise UnavailableError(
            "bundle.expired",
            "the bundle isn't good at that time",
            field="created, expires",
            expected=f"a time from {bundle.created.isoformat()} to {bundle.expires.isoformat()}",
            got=at.isoformat(),
            remedy="Have a new one made (casemate collateral bundle), or check the clock.",
        )
    return bundle


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle and verify its signature under its own key.

    Raises:
        MalformedError: ``bundle.malformed``, ``encoding.*``.
        NotGenuineError: ``bundle.signature``.

    Does not check: whose key that is, nor any time.
    """
    outer = MapReader(decode_cbor(data, what="bundle", max_size=MAX_SIZE), what="bundle")
    if (got := outer.take("format", str)) != FORMAT:
        raise _malformed("format", FORMAT, got[:80])
    content, key = outer.take("content", bytes), outer.take("key", bytes)
    signature = outer.take("signature", bytes)
    outer.finish()
    raw = decode_ed25519_spki(key, field="bundle.key")
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, _CONTEXT + content)
    except (InvalidSignature, ValueError) as error:
        raise NotGenuineError(
            "bundle.signature",
            "the bundle's signature doesn't hold",
            field="signature",
            expected="by the key in the bundle",
            remedy="It was changed or cut on its way; bring it again.",
        ) from error
    fields = MapReader(
        decode_cbor(content, what="bundle content", max_size=MAX_SIZE), what="content"
    )
    created, expires = _time(fields, "created"), _time(fields, "expires")
    items = fields.take_list("parts")
    fields.finish()
    if not 0 < len(items) <= _MAX_PARTS:
        raise _malformed("parts", f"1 to {_MAX_PARTS}", str(len(items)))
    entries = [_entry(item) for item in items]
    names = [each.name for each in entries]
    if names != sorted(set(names)):
        raise _malformed("parts", "names in order, each once", "another order")
    return Bundle(
        key=key, created=created, expires=expires,
        entries=MappingProxyType({each.name: each for each in entries}),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStore:
    """A bundle as a place where parts lie (`casemate.collateral.gather.Store`).

    Args:
        bundle: opened.
        at: the time at which parts must be good.
        roots: the vendors'; others only in tests with authorities of their own.
    """

    bundle: Bundle
    at: Callable[[], datetime.datetime]
    roots: VendorRoots = VENDOR_ROOTS

    def look(self, wanted: Wanted) -> Part | None:
        """A part that is good now (3), if it is there."""
        entry = self.bundle.entries.get(wanted.name)
        now = self.at()
        if entry is None or not self.bundle.created <= now < self.bundle.expires:
            return None
        try:
            validity = wanted.check(entry.parts, self.roots, now)
        except CasemateError:
            return None
        return Part(wanted=wanted, parts=entry.parts, validity=validity, asked=entry.asked)


def _entry(item: object) -> Entry:
    fields = MapReader(item, what="part")
    name, asked = fields.take("name", str), _time(fields, "asked")
    inner = fields.take_map("parts")
    fields.finish()
    parts = {each: inner.take(each, bytes) for each in inner.names()}
    wanted_of(name, parts)
    return Entry(name=name, asked=asked, parts=MappingProxyType(parts))


def _time(fields: MapReader, name: str) -> datetime.datetime:
    value = fields.take(name, int)
    try:
        return datetime.datetime.fromtimestamp(value, datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise _malformed(name, "seconds since 1970", str(value)) from error


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "bundle.malformed",
        f"the bundle has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
