"""Credentials that show that an attestation key lives in the TPM of an endorsement key.

A verifier encrypts a secret to an endorsement key, for the name of an attestation key. A TPM opens
it only if it holds both. So whoever trusts the endorsement key, by its maker's certificate, may
from then on trust the attestation key:

 1. The attestation key's public area says that no TPM lets it go, and that it signs only what the
    TPM says itself. Its name covers that.
 2. A fresh secret is encrypted so that only the endorsement key's TPM can read it, and only for a
    key of that name.
 3. Who answers with the secret has both keys in one TPM.

Source: TCG, "TPM 2.0 Library", part 1 "Architecture", revision 1.59: 11.4.10 (KDFs), 24 (credential
protection), B.10.4 and C.6.4 (secret sharing).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.decrepit.ciphers.modes import CFB  # which TPMs use
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from casemate.errors import NotGenuineError, UsageError
from casemate.evidence.tpm_public import TpmPublic

SEED_SIZE = 32
_MAX_SECRET = 32
_AES_BITS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """What a TPM opens.

    Args:
        blob: integrity value and ciphertext (TPMS_ID_OBJECT).
        secret: the seed, encrypted to the endorsement key (content of TPM2B_ENCRYPTED_SECRET).
    """

    blob: bytes
    secret: bytes


def make_credential(
    endorsement_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    attestation_key: TpmPublic,
    secret: bytes,
    *,
    seed: bytes,
    ephemeral: ec.EllipticCurvePrivateKey | None = None,
) -> Credential:
    """Make a credential for an attestation key that is said to live beside an endorsement key.

    Args:
        endorsement_key: from its certificate; made from the default template of its kind.
        attestation_key: its public area, as its TPM says.
        secret: fresh, random, 16 to 32 bytes.
        seed: likewise, 32 bytes; used with an RSA key.
        ephemeral: a fresh P-256 key; used with an elliptic-curve key.

    Raises:
        NotGenuineError: ``tpm.ak-attributes`` where the key could live elsewhere, or sign anything.
        UsageError: ``tpm.credential`` where an argument can't be used.

    Does not check: the endorsement key's certificate (`casemate.verify.chain.verify_chain`), nor
        the answer: compare it with ``secret`` in constant time.
    """
    require_attesting(attestation_key)  # 1
    if not 16 <= len(secret) <= _MAX_SECRET or len(seed) != SEED_SIZE:
        raise _unusable("secret and seed", "16 to 32 bytes, and 32 bytes")
    if isinstance(endorsement_key, rsa.RSAPublicKey):
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        encrypted = endorsement_key.encrypt(seed, oaep)
    else:
        if ephemeral is None:
            raise _unusable("ephemeral", "a fresh P-256 key")
        ours, theirs = _coordinates(ephemeral.public_key()), _coordinates(endorsement_key)
        shared = ephemeral.exchange(ec.ECDH(), endorsement_key)
        seed = _kdfe(shared, "IDENTITY", ours[0], theirs[0])
        encrypted = _sized(ours[0]) + _sized(ours[1])
    key = _kdfa(seed, "STORAGE", attestation_key.name, _AES_BITS)
    encryptor = Cipher(AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity_key = _kdfa(seed, "INTEGRITY", b"", 256)
    integrity = hmac.digest(integrity_key, identity + attestation_key.name, "sha256")
    return Credential(blob=_sized(integrity) + identity, secret=encrypted)


def require_attesting(key: TpmPublic) -> None:
    """Rule 1.

    Raises:
        NotGenuineError: ``tpm.ak-attributes``.
    """
    if not key.attests:
        raise NotGenuineError(
            "tpm.ak-attributes",
            "the attestation key doesn't have to live in a TPM, or signs what anybody likes",
            field="objectAttributes",
            expected="fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign, and no decrypt",
            got=f"{key.attributes:#010x}",
            remedy="Make the key as a restricted signing key.",
        )


def _kdfa(key: bytes, label: str, context: bytes, bits: int) -> bytes:
    """One block of KDFa with SHA-256: at most 256 bits."""
    content = (1).to_bytes(4, "big") + label.encode() + b"\0" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, content, "sha256")[: bits // 8]


def _kdfe(shared: bytes, label: str, ours: bytes, theirs: bytes) -> bytes:
    """One block of KDFe with SHA-256."""
    content = (1).to_bytes(4, "big") + shared + label.encode() + b"\0" + ours + theirs
    return hashlib.sha256(content).digest()


def _coordinates(key: ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    if not isinstance(key.curve, ec.SECP256R1):
        raise _unusable("endorsement key", "RSA, or an elliptic curve: P-256")
    numbers = key.public_numbers()
    return numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def _unusable(field: str, expected: str) -> UsageError:
    return UsageError(
        "tpm.credential", "no credential can be made from that", field=field, expected=expected
    )
