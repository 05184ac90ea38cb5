"""Verify TPM 2.0 quotes.

 1. The quote parses, and a TPM generated it (`casemate.evidence.tpm`).
 2. The attestation key signed it.
 3. It covers the registers that came along, and nothing else: their digest is the quote's.
 4. Where there are records of AK activations, one of them is of this key: it lives in a TPM whose
    maker certified it.

Source: see `casemate.evidence.tpm`.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
from collections.abc import Collection, Sequence

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from casemate.endorsements.activation import AkActivation
from casemate.errors import MalformedError, NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.tpm import TpmEvidence, TpmSignature, parse_tpm_evidence
from casemate.evidence.tpm_public import parse_tpm_public
from casemate.types import ReportData, Sha256, sha256
from casemate.verify.checks import CheckList
from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.tpm_activation import verify_ak_activation

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_MIN_RSA_BITS = 2048


def verify_tpm(
    data: bytes,
    *,
    at: datetime.datetime,
    activations: Sequence[AkActivation] = (),
    ek_roots: Collection[Sha256] = (),
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a quote under the attestation key that came along with it.

    Args:
        data: JSON (see `casemate.evidence.tpm.parse_tpm_evidence`).
        at: the time, for the certificates in the records; a quote itself has none.
        activations: the verifier's own records of which attestation keys are in which TPMs.
        ek_roots: fingerprints of TPM makers' roots; see
            `casemate.verify.tpm_activation.verify_ak_activation`.
        checks: collects the checks.

    Returns:
        The report; the claim ``ak`` is the SHA-256 of the attestation key. With a record, ``ek``
        and ``ek_root`` are those of the endorsement key's certificate and of its root.

    Raises:
        MalformedError: it can't be read.
        UnavailableError: ``tpm.no-activation`` where there are records, and none of this key.
        NotGenuineError: ``tpm.*``, ``tpm-ek.*``.

    Does not check: whose the attestation key is, without a record. A quote by itself proves
        nothing: a policy must name the key or the maker's root, or the key must come from an
        endorsed one (`casemate.verify.azure`).
    """
    checks = CheckList() if checks is None else checks
    with checks.check("tpm.quote", "the quote has the form that TPMs give it"):  # 1
        evidence = parse_tpm_evidence(data)
        assert evidence.ak_public is not None
        try:
            key = load_der_public_key(evidence.ak_public)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedError(
                "tpm.ak", "the attestation key can't be read", field="ak_public"
            ) from error
    verify_tpm_quote(evidence, key, checks)
    claims = tpm_claims(evidence, key)
    if activations:
        with checks.check(
            "tpm.activation", "the attestation key is in a TPM that is certified"
        ):  # 4
            spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            claims |= _endorsed(spki, activations, at, ek_roots)
    return VerifiedReport(
        tee=Tee.TPM,
        report_data=bound_by(evidence),
        claims=claims,
        checks=checks.done(),
    )


def _endorsed(
    spki: bytes,
    activations: Sequence[AkActivation],
    at: datetime.datetime,
    ek_roots: Collection[Sha256],
) -> dict[str, ClaimValue]:
    """Rule 4: what the attestation key's TPM is."""
    mine = [each for each in activations if parse_tpm_public(each.ak_public).spki == spki]
    if not mine:
        raise UnavailableError(
            "tpm.no-activation",
            "whether the attestation key is in a certified TPM can't be told",
            field="ak_public",
            expected=f"a record of the activation of {sha256(spki)}",
            got=f"{len(activations)} of other keys",
            remedy="Challenge the TPM through its endorsement key.",
        )
    key = verify_ak_activation(mine[0], at=at, roots=ek_roots)
    return {"ek": bytes(key.ek), "ek_root": bytes(key.ek_root)}


def verify_tpm_quote(evidence: TpmEvidence, key: PublicKeyTypes, checks: CheckList) -> None:
    """Rules 2 and 3.

    Raises:
        NotGenuineError: ``tpm.signature``, ``tpm.pcr-digest``, ``tpm.pcr-select``.
    """
    with checks.check("tpm.signature", "the attestation key signed the quote"):  # 2
        _check_signature(evidence.signature, evidence.quote.signed, key)
    with checks.check("tpm.pcrs", "the quote covers the registers that came along"):  # 3
        _check_registers(evidence)


def bound_by(evidence: TpmEvidence) -> ReportData:
    """What the quote binds: its qualifying data, filled up with zeros to 64 bytes.

    Raises:
        MalformedError: ``tpm.qualifying-data`` where it is longer.
    """
    extra = evidence.quote.extra_data
    if len(extra) > ReportData.length:
        raise MalformedError(
            "tpm.qualifying-data",
            "the qualifying data is too long",
            field="extraData",
            expected=f"at most {ReportData.length} bytes",
            got=f"{len(extra)} bytes",
        )
    return ReportData(extra.ljust(ReportData.length, b"\0"))


def tpm_claims(evidence: TpmEvidence, key: PublicKeyTypes) -> dict[str, ClaimValue]:
    """The claims of a verified quote."""
    quote = evidence.quote
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claims: dict[str, ClaimValue] = {
        "ak": bytes(sha256(spki)),
        "extra_data": quote.extra_data,
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
        "safe": quote.safe,
        "firmware_version": quote.firmware_version,
    }
    selected = quote.pcr_select["sha256"]
    claims["pcr_bank"] = "sha256"
    claims["pcr_selection"] = ",".join(map(str, selected))
    claims["pcr_digest"] = quote.pcr_digest
    return claims | {f"pcr{number}": evidence.pcrs[number] for number in selected}


def _check_signature(signature: TpmSignature, signed: bytes, key: PublicKeyTypes) -> None:
    try:
        digest = _HASHES.get(signature.hash)
        if digest is None:
            raise InvalidSignature(signature.hash)
        match key, signature.scheme:
            case rsa.RSAPublicKey(), "rsassa" if key.key_size >= _MIN_RSA_BITS:
                key.verify(signature.parts[0], signed, padding.PKCS1v15(), digest)
            case rsa.RSAPublicKey(), "rsapss" if key.key_size >= _MIN_RSA_BITS:
                pss = padding.PSS(padding.MGF1(digest), padding.PSS.AUTO)
                key.verify(signature.parts[0], signed, pss, digest)
            case ec.EllipticCurvePublicKey(), "ecdsa":
                r, s = (int.from_bytes(part, "big") for part in signature.parts)
                key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
            case _:
                raise InvalidSignature(signature.scheme)
    except InvalidSignature as error:
        raise NotGenuineError(
            "tpm.signature",
            "the signature of the quote doesn't hold",
            field="signature",
            expected=f"a signature by the attestation key, {type(key).__name__}",
            got=f"{signature.scheme} with {signature.hash}",
            remedy="Nothing can repair it: the quote was changed, or another TPM made it.",
        ) from error


def _check_registers(evidence: TpmEvidence) -> None:
    quote = evidence.quote
    if set(quote.pcr_select) != {"sha256"} or not quote.pcr_select["sha256"]:
        raise NotGenuineError(
            "tpm.pcr-select",
            "the quote covers registers of another bank",
            field="pcrSelect",
            expected="the SHA-256 bank, and no other",
            got=", ".join(quote.pcr_select) or "none",
            remedy="Quote the SHA-256 bank alone.",
        )
    selected = quote.pcr_select["sha256"]
    missing = [number for number in selected if number not in evidence.pcrs]
    values = b"".join(evidence.pcrs.get(number, b"") for number in selected)
    # The digest is the signing scheme's hash over the values.
    got = hashlib.new(evidence.signature.hash, values).digest()
    if missing or not hmac.compare_digest(got, quote.pcr_digest):
        raise NotGenuineError(
            "tpm.pcr-digest",
            "the registers aren't those that the quote covers",
            field="pcrs",
            expected=quote.pcr_digest.hex(),
            got=f"registers {missing} missing" if missing else got.hex(),
            remedy="Read the registers and make the quote in one go.",
        )
