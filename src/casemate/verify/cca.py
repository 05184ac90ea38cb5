"""Verify Arm CCA tokens.

 1. Both tokens parse (`casemate.evidence.cca`).
 2. The platform's attestation key (CPAK), which somebody vouches for, signed the platform token.
 3. The platform token's challenge is the digest of the realm's key.
 4. The realm's key signed the realm token.

There is no certificate in a token: who trusts a CPAK got it from the platform's vendor, by
implementation and instance id.

Source: see `casemate.evidence.cca`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from casemate.encoding import decode_foreign_cbor
from casemate.errors import MalformedError, NotGenuineError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.evidence.cca import CcaRealm, CcaToken, parse_cca_token
from casemate.types import sha256
from casemate.verify.checks import CheckList
from casemate.verify.cose import verify_sign1
from casemate.verify.report import ClaimValue, VerifiedReport

_POINT_SIZE = 97  # an uncompressed point on P-384
_KEY_TYPE, _CURVE, _X, _Y = 1, -1, -2, -3
_EC2, _P384 = 2, 2


def verify_cca(
    data: bytes, *, platform_keys: Collection[bytes], checks: CheckList | None = None
) -> VerifiedReport:
    """Verify a token.

    Args:
        data: the token.
        platform_keys: DER SubjectPublicKeyInfo of the CPAKs that are trusted.
        checks: collects the checks.

    Returns:
        The report; it binds the realm's challenge. The claim ``cpak`` is the SHA-256 of the key.

    Raises:
        MalformedError: it can't be read.
        UnavailableError: ``cca.no-cpak`` without any platform key.
        NotGenuineError: ``cca.*``.

    Does not check: measurements, lifecycle, or any policy.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("cca.token", "the token has the form that Arm's firmware gives it"):  # 1
        token = parse_cca_token(data)
    with checks.check("cca.platform", "a trusted platform's key signed the platform token"):  # 2
        cpak = _signer(token, platform_keys)
    with checks.check("cca.binding", "the platform vouches for the realm's key"):  # 3
        _check_binding(token)
    with checks.check("cca.realm", "the realm's key signed the realm token"):  # 4
        verify_sign1(token.realm.sign1, _realm_key(token.realm), code="cca.realm")
    return VerifiedReport(
        tee=Tee.CCA,
        report_data=token.realm.challenge,
        claims=_claims(token, cpak),
        checks=checks.done(),
    )


def _signer(token: CcaToken, platform_keys: Collection[bytes]) -> bytes:
    """Which of the keys signed the platform token."""
    if not platform_keys:
        raise UnavailableError(
            "cca.no-cpak",
            "the platform's attestation key isn't at hand",
            field="CPAK",
            expected=f"that of instance {token.platform.instance_id.hex()}",
            got="none",
            remedy="Get the platform's key from its vendor.",
        )
    for spki in platform_keys:
        try:
            key = load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError("cca.cpak", "a platform key can't be read", field="CPAK") from error
        try:
            verify_sign1(token.platform.sign1, key, code="cca.platform")
        except NotGenuineError:
            continue
        return spki
    raise NotGenuineError(
        "cca.platform",
        "none of the trusted platforms signed the platform token",
        field="CPAK",
        expected=" or ".join(str(sha256(spki)) for spki in platform_keys),
        got="another signer",
        remedy="Give the key of the platform that the token names, if it is to be trusted.",
    )


def _check_binding(token: CcaToken) -> None:
    algorithm = token.realm.public_key_hash_algorithm.replace("-", "")
    got = hashlib.new(algorithm, token.realm.public_key).digest()
    if not hmac.compare_digest(got, token.platform.challenge):
        raise NotGenuineError(
            "cca.binding",
            "the realm token's key isn't the one that the platform vouches for",
            field="platform challenge",
            expected=token.platform.challenge.hex(),
            got=got.hex(),
            remedy="Nothing can repair it: the realm token was exchanged.",
        )


def _realm_key(realm: CcaRealm) -> ec.EllipticCurvePublicKey:
    """The realm's key: an uncompressed point on P-384, or a COSE_Key of one."""
    point = realm.public_key
    if len(point) != _POINT_SIZE:
        fields = decode_foreign_cbor(point, what="realm key", max_size=512)
        if not isinstance(fields, dict) or fields.get(_KEY_TYPE) != _EC2:
            raise _bad_key("a COSE_Key of type EC2")
        x, y = fields.get(_X), fields.get(_Y)
        if fields.get(_CURVE) != _P384 or not isinstance(x, bytes) or not isinstance(y, bytes):
            raise _bad_key("coordinates on P-384")
        point = b"\x04" + x + y
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP384R1(), point)
    except ValueError as error:
        raise _bad_key("a point on P-384") from error


def _bad_key(expected: str) -> MalformedError:
    return MalformedError(
        "cca.realm-key", "the realm's key can't be used", field="realm key", expected=expected
    )


def _claims(token: CcaToken, cpak: bytes) -> dict[str, ClaimValue]:
    platform, realm = token.platform, token.realm
    claims: dict[str, ClaimValue] = {
        "cpak": bytes(sha256(cpak)),
        "implementation_id": platform.implementation_id,
        "instance_id": platform.instance_id,
        "lifecycle": platform.lifecycle,
        "debug": not platform.secured,
        "profile": platform.profile,
        "config": platform.config,
        "components": tuple(
            f"{each.type} {each.measurement.hex()}" for each in platform.components
        ),
        "component_signers": tuple(dict.fromkeys(e.signer_id.hex() for e in platform.components)),
        "realm_hash_algorithm": realm.hash_algorithm,
        "rim": realm.initial_measurement,
        "rpv": realm.personalization_value,
    }
    return claims | {f"rem{n}": value for n, value in enumerate(realm.extensible_measurements)}
