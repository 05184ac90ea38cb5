"""Come to trust a TPM's attestation key: what the owner does, and what the machine does."""

from __future__ import annotations

import datetime
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from casemate.endorsements.certificates import load_certificate, load_certificates
from casemate.endorsements.enrolment import (
    TpmChallenge,
    TpmIdentity,
    TpmKept,
    encode_tpm_answer,
    parse_tpm_answer,
    parse_tpm_challenge,
    parse_tpm_identity,
    parse_tpm_kept,
)
from casemate.errors import UsageError
from casemate.evidence.tpm_public import parse_tpm_public
from casemate.project.files import read_file, write_private, write_public
from casemate.tee.tpm import TpmQuotes
from casemate.types import Sha256, sha256
from casemate.verify.anything import device_chain
from casemate.verify.tpm_activation import ActivatedKey, verify_ak_activation
from casemate.verify.tpm_credential import SEED_SIZE, make_credential

_SECRET_SIZE = 32


def write_identity(place: str | None, output: Path) -> Sha256:
    """The machine says which keys its TPM has; returns the attestation key's hash.

    Raises:
        UsageError, UnavailableError: ``tee.*``, ``file.*``.
    """
    quotes = TpmQuotes(place)
    key = quotes.attestation_key()
    certificates = tuple(
        load_certificate(der, what="EK certificate") for der in quotes.endorsement_certificates()
    )
    write_public(output, TpmIdentity(ak_public=key.area, ek_certificates=certificates).encode())
    return sha256(key.spki)


def write_challenge(
    identity: Path, challenge: Path, kept: Path, *, certificates: Sequence[Path]
) -> None:
    """The owner makes a challenge, and keeps what the answer must be.

    Args:
        identity: what the machine says.
        challenge: is written; the machine's to answer.
        kept: is written, for the owner alone.
        certificates: files: the endorsement key's certificate, where the TPM holds none, and its
            issuers up to a root that signed itself.

    Raises:
        UsageError: ``tpm.no-certificate``, ``tpm.no-root``, ``file.*``.
        NotGenuineError: ``tpm.ak-attributes``.
        MalformedError: a file isn't what it should be.
    """
    said = parse_tpm_identity(read_file(identity, field="IDENTITY"))
    given = [
        each
        for path in certificates
        for each in load_certificates(read_file(path, field="--certificate"), what=str(path))
    ]
    chain = _chain(said.ek_certificates, given)
    endorsement_key = chain[0].public_key()
    if not isinstance(endorsement_key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise _unusable(
            "tpm.no-certificate", "the endorsement key is of another kind", "RSA, P-256"
        )
    sent = os.urandom(_SECRET_SIZE)
    credential = make_credential(
        endorsement_key, parse_tpm_public(said.ak_public), sent, seed=os.urandom(SEED_SIZE),
        ephemeral=ec.generate_private_key(ec.SECP256R1()),
    )  # fmt: skip
    write_private(
        kept, TpmKept(ek_certificates=tuple(chain), ak_public=said.ak_public, sent=sent).encode()
    )
    key = "rsa" if isinstance(endorsement_key, rsa.RSAPublicKey) else "ecc"
    content = TpmChallenge(key=key, blob=credential.blob, secret=credential.secret)
    write_public(challenge, content.encode())


def write_answer(place: str | None, challenge: Path, output: Path) -> None:
    """The machine's TPM opens the challenge.

    Raises:
        UnavailableError: ``tee.tpm`` where it was made for another TPM or another key.
        UsageError, MalformedError: as the files and the TPM have it.
    """
    asked = parse_tpm_challenge(read_file(challenge, field="CHALLENGE"))
    opened = TpmQuotes(place).activate(asked.blob, asked.secret, rsa=asked.key == "rsa")
    write_public(output, encode_tpm_answer(opened))


def write_record(
    kept: Path, answer: Path, output: Path, *, at: datetime.datetime, roots: Sequence[Sha256] = ()
) -> ActivatedKey:
    """The owner judges the answer, and records what it shows.

    Raises:
        NotGenuineError: ``tpm.activation``, ``tpm-ek.*``, ``tpm.ak-attributes``; nothing is
            written.
        MalformedError, UsageError: as the files have it.
    """
    mine = parse_tpm_kept(read_file(kept, field="KEPT"))
    answered = parse_tpm_answer(read_file(answer, field="ANSWER"))
    record, content = mine.record(answered)
    key = verify_ak_activation(record, at=at, roots=roots)
    write_public(output, content)
    return key


def _chain(
    own: Sequence[x509.Certificate], given: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """The endorsement key's chain, leaf first, root last; RSA where the TPM has both."""
    leaves = sorted(own, key=lambda each: not isinstance(each.public_key(), rsa.RSAPublicKey))
    chain = device_chain([*leaves[:1], *given])
    if not chain:
        raise _unusable(
            "tpm.no-certificate", "there is no certificate of an endorsement key",
            "one in the TPM, or in a file",
        )  # fmt: skip
    if chain[-1].issuer != chain[-1].subject:
        raise _unusable(
            "tpm.no-root", "the endorsement key's chain has no end",
            f"the certificate of {chain[-1].issuer.rfc4514_string()[:120]}",
        )  # fmt: skip
    return chain


def _unusable(code: str, message: str, expected: str) -> UsageError:
    return UsageError(
        code, message, field="--certificate", expected=expected,
        remedy="Give the TPM maker's certificates, up to its root: --certificate FILE.",
    )  # fmt: skip
