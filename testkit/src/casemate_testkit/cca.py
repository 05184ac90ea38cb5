"""An Arm CCA platform of our own: its attestation key, and tokens of realms on it.

Source: see `casemate.evidence.cca`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate_testkit.pki import P384, sign_raw, spki

_ES384 = b"\xa1\x01\x38\x22"
_SECURED = 0x3003


@dataclass(eq=False, kw_only=True)
class CcaPlatform:
    """A platform.

    Args:
        cpak: its attestation key.
        realm_key: of a realm on it.
    """

    cpak: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(P384))
    realm_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(P384)
    )

    @property
    def cpak_spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the attestation key, as verifiers are given it."""
        return spki(self.cpak)

    def token(
        self,
        *,
        challenge: bytes = b"\x11" * 64,
        lifecycle: int = _SECURED,
        rim: bytes = b"\x22" * 48,
        platform_signer: ec.EllipticCurvePrivateKey | None = None,
        realm_signer: ec.EllipticCurvePrivateKey | None = None,
        bound_key: ec.EllipticCurvePrivateKey | None = None,
        cose_key: bool = False,
        tag: int = 399,
    ) -> bytes:
        """A token, genuine unless the arguments make it otherwise.

        Args:
            challenge, lifecycle, rim: what it says.
            platform_signer, realm_signer: whose keys sign instead.
            bound_key: the realm's key that the platform vouches for, if another.
            cose_key: whether the realm's key stands in it as a COSE_Key.
            tag: of the whole, 399 or 907.
        """
        point = _point(self.realm_key)
        realm_key = cbor2.dumps({1: 2, -1: 2, -2: point[1:49], -3: point[49:]})
        realm_key = realm_key if cose_key else point
        bound = _point(bound_key) if bound_key is not None else realm_key
        component = {1: "BL", 2: b"\x33" * 32, 4: "1.0", 5: b"\x44" * 32}
        platform = {
            10: hashlib.sha256(bound).digest(), 256: b"\x01" + b"\x55" * 32,
            265: "tag:arm.com,2023:cca_platform#1.0.0", 2395: lifecycle, 2396: b"\x66" * 32,
            2399: [component], 2400: "https://verifier.example", 2401: b"\x00\x01",
            2402: "sha-256",
        }  # fmt: skip
        realm = {
            10: challenge, 44235: b"\x77" * 64, 44236: "sha-384", 44237: realm_key, 44238: rim,
            44239: [bytes(48)] * 4, 44240: "sha-256",
        }  # fmt: skip
        parts = {
            44234: _signed(platform, platform_signer or self.cpak),
            44241: _signed(realm, realm_signer or self.realm_key),
        }
        return cbor2.dumps(cbor2.CBORTag(tag, parts))


def _point(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def _signed(claims: Mapping[int, object], key: ec.EllipticCurvePrivateKey) -> bytes:
    payload = cbor2.dumps(claims)
    signature = sign_raw(key, cbor2.dumps(["Signature1", _ES384, b"", payload]))
    return cbor2.dumps(cbor2.CBORTag(18, [_ES384, {}, payload, signature]))
