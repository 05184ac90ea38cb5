"""Arm CCA attestation tokens: a platform token and a realm token, each signed, bound by a hash.

Source: Arm, "Realm Management Monitor specification" (DEN0137) 1.0, section A7.2 "CCA attestation
token"; the same in draft-ffm-rats-cca-token.
"""

from __future__ import annotations

from dataclasses import dataclass

import cbor2

from casemate.encoding import decode_foreign_cbor
from casemate.encoding.cose import SIGN1_TAG, Sign1, parse_sign1
from casemate.errors import MalformedError
from casemate.types import ReportData

MAX_SIZE = 64 * 1024
TOKEN_TAGS = (399, 907)
_PLATFORM, _REALM = 44234, 44241
_NONCE, _UEID, _PROFILE = 10, 256, 265
_LIFECYCLE, _IMPLEMENTATION, _COMPONENTS, _SERVICE, _CONFIG, _HASH = (
    2395, 2396, 2399, 2400, 2401, 2402,
)  # fmt: skip
_RPV, _REALM_HASH, _REALM_KEY, _RIM, _REMS, _REALM_KEY_HASH = (
    44235, 44236, 44237, 44238, 44239, 44240,
)  # fmt: skip
_PLATFORM_KEYS = {
    _NONCE, _UEID, _PROFILE, _LIFECYCLE, _IMPLEMENTATION, _COMPONENTS, _SERVICE, _CONFIG, _HASH,
}  # fmt: skip
_REALM_KEYS = {
    _NONCE, _PROFILE, _RPV, _REALM_HASH, _REALM_KEY, _RIM, _REMS, _REALM_KEY_HASH,
}  # fmt: skip
_MAX_COMPONENTS = 64
_DIGESTS = {32, 48, 64}
_RPV_SIZE, _REM_COUNT = 64, 4
_SECURED = range(0x3000, 0x3100)
_HASHES = ("sha-256", "sha-384", "sha-512")


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaComponent:
    """A piece of the platform's software: type, digest, version, and digest of its signer."""

    type: str
    measurement: bytes
    version: str
    signer_id: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaPlatform:
    """The platform token.

    Args:
        challenge: digest of the realm's key: what binds the two tokens.
        implementation_id: 32 bytes, the kind of platform.
        instance_id: 33 bytes, this platform, beginning with 1.
        lifecycle: its state; 0x30xx is secured.
        profile: names the token's format.
        config: vendor's bytes.
        hash_algorithm: of the components' digests.
        components: its software.
        verification_service: where to ask, or an empty text.
        sign1: the message around it.
    """

    challenge: bytes
    implementation_id: bytes
    instance_id: bytes
    lifecycle: int
    profile: str
    config: bytes
    hash_algorithm: str
    components: tuple[CcaComponent, ...]
    verification_service: str
    sign1: Sign1

    @property
    def secured(self) -> bool:
        """Whether the platform is in its secured state: no debugging, and its root is in place."""
        return self.lifecycle in _SECURED


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaRealm:
    """The realm token.

    Args:
        challenge: what the caller had bound.
        personalization_value: 64 bytes that the host gave at launch.
        initial_measurement: RIM.
        extensible_measurements: REM 0 to 3.
        hash_algorithm: of the measurements.
        public_key: the realm's attestation key, as it stands in the token.
        public_key_hash_algorithm: by which the platform token binds it.
        sign1: the message around it.
    """

    challenge: ReportData
    personalization_value: bytes
    initial_measurement: bytes
    extensible_measurements: tuple[bytes, ...]
    hash_algorithm: str
    public_key: bytes
    public_key_hash_algorithm: str
    sign1: Sign1


@dataclass(frozen=True, slots=True, kw_only=True)
class CcaToken:
    """Both tokens."""

    platform: CcaPlatform
    realm: CcaRealm


def parse_cca_token(data: bytes) -> CcaToken:
    """Parse a token.

    Args:
        data: CBOR, tag 399 or 907, at most 64 KiB.

    Raises:
        MalformedError: ``cca.malformed``, ``encoding.*``.

    Does not check: the signatures and the binding (`casemate.verify.cca`).
    """
    tags = (*TOKEN_TAGS, SIGN1_TAG)
    value = decode_foreign_cbor(data, what="CCA token", max_size=MAX_SIZE, tags=tags)
    if not isinstance(value, cbor2.CBORTag) or value.tag not in TOKEN_TAGS:
        raise _malformed("tag", " or ".join(map(str, TOKEN_TAGS)), type(value).__name__)
    parts = value.value
    if not isinstance(parts, dict) or set(parts) != {_PLATFORM, _REALM}:
        raise _malformed("token", "a map of platform and realm token", type(parts).__name__)
    for part in parts.values():
        if not isinstance(part, bytes):
            raise _malformed("token", "byte strings", type(part).__name__)
    return CcaToken(platform=_platform(parts[_PLATFORM]), realm=_realm(parts[_REALM]))


def _platform(data: bytes) -> CcaPlatform:
    sign1, claims = _claims(data, "platform token", _PLATFORM_KEYS)
    components = claims.get(_COMPONENTS)
    if not isinstance(components, list) or not 0 < len(components) <= _MAX_COMPONENTS:
        raise _malformed("software components", f"1 to {_MAX_COMPONENTS}", str(type(components)))
    lifecycle = claims.get(_LIFECYCLE)
    if not isinstance(lifecycle, int) or not 0 <= lifecycle <= 0xFFFF:
        raise _malformed("lifecycle", "0 to 65535", str(lifecycle)[:20])
    instance = _bytes("instance id", claims.get(_UEID), {33})
    if instance[0] != 1:
        raise _malformed("instance id", "a random id: beginning with 1", instance[:1].hex())
    return CcaPlatform(
        challenge=_bytes("platform challenge", claims.get(_NONCE), _DIGESTS),
        implementation_id=_bytes("implementation id", claims.get(_IMPLEMENTATION), {32}),
        instance_id=instance,
        lifecycle=lifecycle,
        profile=_text("profile", claims.get(_PROFILE)),
        config=_bytes("config", claims.get(_CONFIG), None),
        hash_algorithm=_hash("hash algorithm", claims.get(_HASH)),
        components=tuple(_component(item) for item in components),
        verification_service=_text("verification service", claims.get(_SERVICE, "")),
        sign1=sign1,
    )


def _realm(data: bytes) -> CcaRealm:
    sign1, claims = _claims(data, "realm token", _REALM_KEYS)
    registers = claims.get(_REMS)
    if not isinstance(registers, list) or len(registers) != _REM_COUNT:
        raise _malformed("REM", f"{_REM_COUNT} measurements", type(registers).__name__)
    return CcaRealm(
        challenge=ReportData(_bytes("realm challenge", claims.get(_NONCE), {64})),
        personalization_value=_bytes("RPV", claims.get(_RPV), {_RPV_SIZE}),
        initial_measurement=_bytes("RIM", claims.get(_RIM), _DIGESTS),
        extensible_measurements=tuple(_bytes("REM", item, _DIGESTS) for item in registers),
        hash_algorithm=_hash("realm hash algorithm", claims.get(_REALM_HASH)),
        public_key=_bytes("realm key", claims.get(_REALM_KEY), None),
        public_key_hash_algorithm=_hash("realm key hash algorithm", claims.get(_REALM_KEY_HASH)),
        sign1=sign1,
    )


def _claims(data: bytes, what: str, known: set[int]) -> tuple[Sign1, dict[int, object]]:
    sign1 = parse_sign1(data, what=what, max_size=MAX_SIZE)
    claims = decode_foreign_cbor(sign1.payload, what=what, max_size=MAX_SIZE)
    if not isinstance(claims, dict) or set(claims) - known:
        raise _malformed(what, "a map of the claims that Arm documents", type(claims).__name__)
    return sign1, claims


def _component(value: object) -> CcaComponent:
    if not isinstance(value, dict) or set(value) - {1, 2, 4, 5, 6}:
        raise _malformed("software component", "a map of its claims", type(value).__name__)
    return CcaComponent(
        type=_text("component type", value.get(1, "")),
        measurement=_bytes("component measurement", value.get(2), _DIGESTS),
        version=_text("component version", value.get(4, "")),
        signer_id=_bytes("component signer", value.get(5), _DIGESTS),
    )


def _bytes(field: str, value: object, sizes: set[int] | None) -> bytes:
    if not isinstance(value, bytes) or (sizes is not None and len(value) not in sizes):
        wanted = "bytes" if sizes is None else f"{' or '.join(map(str, sorted(sizes)))} bytes"
        got = f"{len(value)} bytes" if isinstance(value, bytes) else type(value).__name__
        raise _malformed(field, wanted, got)
    return value


def _text(field: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 1024:
        raise _malformed(field, "a text", type(value).__name__)
    return value


def _hash(field: str, value: object) -> str:
    if value not in _HASHES:
        raise _malformed(field, " or ".join(_HASHES), str(value)[:20])
    return str(value)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "cca.malformed",
        f"the CCA token has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
