"""Whose an attestation key is: in the TPM of an endorsement key that its maker certified.

A verifier challenged the TPM (`casemate.verify.tpm_credential`) and kept a record of it.

 1. The endorsement key's chain ends in a root: one of those that are named, or, where none is, the
    one that the claim ``ek_root`` then names, for a policy to judge.
 2. The leaf is a certificate of an endorsement key.
 3. The attestation key was made in its TPM, never leaves it, and signs only what the TPM makes.
 4. The TPM gave back the secret that was sent.

Source: TCG, "EK Credential Profile", version 2.5, section 3.2; and as `tpm_credential` says.
"""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Collection
from dataclasses import dataclass

from cryptography import x509

from casemate.endorsements.activation import AkActivation
from casemate.errors import NotGenuineError
from casemate.evidence.tpm_public import parse_tpm_public
from casemate.types import Sha256
from casemate.verify.chain import fingerprint, verify_chain
from casemate.verify.tpm_credential import require_attesting

_EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivatedKey:
    """An attestation key whose TPM is known.

    Args:
        spki: DER SubjectPublicKeyInfo of the attestation key.
        ek: SHA-256 of the endorsement key's whole certificate: names the TPM.
        ek_root: SHA-256 of the root that its chain ends in: names who made it.
    """

    spki: bytes
    ek: Sha256
    ek_root: Sha256


def verify_ak_activation(
    record: AkActivation, *, at: datetime.datetime, roots: Collection[Sha256] = ()
) -> ActivatedKey:
    """Judge a record.

    Args:
        record: of a challenge and its answer; the verifier's own.
        at: the time at which the endorsement key's chain must be valid.
        roots: fingerprints of TPM makers' roots; where none is given, a policy must judge
            ``ek_root``.

    Raises:
        MalformedError: ``tpm.public``.
        NotGenuineError: ``tpm-ek.*``, ``tpm.ak-attributes``, ``tpm.activation``.

    Does not check: whether the secret was fresh and kept; whether the chain was revoked.
    """
    chain = record.ek_certificates
    root = fingerprint(chain[-1])
    verify_chain(  # 1
        chain, roots=roots or {root}, at=at, what="tpm-ek",
        known_critical=[x509.OID_SUBJECT_ALTERNATIVE_NAME],
    )  # fmt: skip
    _check_endorsement_key(chain[0])  # 2
    key = parse_tpm_public(record.ak_public)
    require_attesting(key)  # 3
    if not hmac.compare_digest(record.sent, record.answered):  # 4
        raise NotGenuineError(
            "tpm.activation",
            "the TPM of that endorsement key doesn't hold the attestation key",
            field="answered",
            expected="the secret that was sent",
            got="another",
            remedy="Challenge the TPM again; if it stays, the key isn't that TPM's.",
        )
    return ActivatedKey(spki=key.spki, ek=fingerprint(chain[0]), ek_root=root)


def _check_endorsement_key(leaf: x509.Certificate) -> None:
    usages: Collection[x509.ObjectIdentifier] = ()
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage):
            usages = list(extension.value)
    if _EK_USAGE not in usages:
        raise NotGenuineError(
            "tpm-ek.usage",
            "the certificate isn't that of an endorsement key",
            field="extended key usage",
            expected=_EK_USAGE.dotted_string,
            got=", ".join(each.dotted_string for each in usages) or "none",
            remedy="Give the certificate that the TPM holds.",
        )
