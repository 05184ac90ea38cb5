"""Certificate chains under roots that are pinned by fingerprint.

General-purpose path validation refuses the chains of this field (chip certificates without key
identifiers, roots that only issue for devices), so the rules are written out. Source: RFC 5280,
section 6.1, as far as these chains go:

 1. The last certificate is one of the pinned roots: the SHA-256 of the whole certificate is.
 2. Each certificate is signed by the next one's key, and names it as its issuer; the root itself.
 3. Each is valid at the given time.
 4. Every issuer is a CA, may sign certificates, and allows a path of this length.
 5. No critical extension is unknown.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.errors import NotGenuineError, UnavailableError
from casemate.types import Sha256, sha256

_MAX_LENGTH = 6
_MIN_RSA_BITS = 2048
_KNOWN_CRITICAL = {
    x509.OID_BASIC_CONSTRAINTS,
    x509.OID_KEY_USAGE,
    x509.OID_EXTENDED_KEY_USAGE,
}


def fingerprint(certificate: x509.Certificate) -> Sha256:
    """SHA-256 of the whole certificate."""
    return sha256(certificate.public_bytes(Encoding.DER))


def verify_chain(
    chain: Sequence[x509.Certificate],
    *,
    roots: Collection[Sha256],
    at: datetime.datetime,
    what: str,
    known_critical: Collection[x509.ObjectIdentifier] = (),
) -> None:
    """Verify a chain.

    Args:
        chain: leaf first, root last.
        roots: fingerprints of the roots that are trusted.
        at: the time at which every certificate must be valid, with its zone.
        what: whose chain, for messages and codes: ``snp``.
        known_critical: further critical extensions that the caller looks at itself.

    Raises:
        NotGenuineError: ``WHAT.root``, ``WHAT.chain``, ``WHAT.expired``, ``WHAT.not-a-ca``,
            ``WHAT.critical-extension``.

    Does not check: revocation (`check_revocation`), and what the leaf is for.
    """
    if not 1 <= len(chain) <= _MAX_LENGTH:
        raise _refusal(what, "chain", "chain", f"1 to {_MAX_LENGTH} certificates", str(len(chain)))
    # Rule 1.
    root = fingerprint(chain[-1])
    if root not in roots:
        raise NotGenuineError(
            f"{what}.root",
            "the chain ends in a root that isn't pinned",
            field="root",
            expected=" or ".join(sorted(str(each) for each in roots)) or "no root at all",
            got=str(root),
            remedy="Give the vendor's own chain; a root of your own must be named explicitly.",
        )
    known = _KNOWN_CRITICAL | set(known_critical)
    for index, certificate in enumerate(chain):
        issuer = chain[min(index + 1, len(chain) - 1)]
        _check_signature(certificate, issuer, what)
        check_validity(certificate, at=at, what=what)
        if index:
            _check_issuer(certificate, index - 1, what)
        for extension in certificate.extensions:  # Rule 5.
            if extension.critical and extension.oid not in known:
                raise _refusal(
                    what, "critical-extension", certificate,
                    "no unknown critical extension", extension.oid.dotted_string,
                )  # fmt: skip


def check_validity(certificate: x509.Certificate, *, at: datetime.datetime, what: str) -> None:
    """Rule 3.

    Raises:
        NotGenuineError: ``WHAT.expired``.
    """
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= at <= end:
        raise NotGenuineError(
            f"{what}.expired",
            "a certificate isn't valid at that time",
            field=_name(certificate),
            expected=f"a time from {start.isoformat()} to {end.isoformat()}",
            got=at.isoformat(),
            remedy="Fetch a current certificate, or check the clock.",
        )


def check_revocation(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    lists: Sequence[x509.CertificateRevocationList],
    *,
    at: datetime.datetime,
    what: str,
) -> None:
    """Whether ``certificate`` is on its issuer's current revocation list.

    Args:
        certificate: the one in question.
        issuer: who issued it, and signs the list.
        lists: those at hand; the issuer's are picked.
        at: the time at which the list must be current.
        what: whose, for codes.

    Raises:
        UnavailableError: ``WHAT.no-crl`` without a current list of the issuer.
        NotGenuineError: ``WHAT.crl-signature``, ``WHAT.revoked``.
    """
    mine = [each for each in lists if each.issuer == issuer.subject]
    current = []
    for each in mine:
        if not each.is_signature_valid(_signing_key(issuer, what)):
            raise _refusal(what, "crl-signature", "revocation list", "its issuer's", "another")
        end = each.next_update_utc
        if each.last_update_utc <= at and (end is not None and at < end):
            current.append(each)
    if not current:
        raise UnavailableError(
            f"{what}.no-crl",
            "whether a certificate was revoked can't be told",
            field=_name(certificate),
            expected=f"a revocation list of {_name(issuer)}, current at {at.isoformat()}",
            got="an outdated one" if mine else "none",
            remedy="Fetch the issuer's current revocation list.",
        )
    newest = max(current, key=lambda each: each.last_update_utc)
    entry = newest.get_revoked_certificate_by_serial_number(certificate.serial_number)
    if entry is not None:
        raise _refusal(
            what, "revoked", certificate,
            "a certificate that isn't revoked", f"revoked {entry.revocation_date_utc.isoformat()}",
        )  # fmt: skip


def _name(certificate: x509.Certificate) -> str:
    """The subject, for messages; making it takes time, so only where something is refused."""
    return certificate.subject.rfc4514_string()[:120]


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate, what: str) -> None:
    """Rule 2."""
    _signing_key(issuer, what)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise NotGenuineError(
            f"{what}.chain",
            "a certificate wasn't issued by the next one of its chain",
            field=_name(certificate),
            expected=f"signed by {_name(issuer)}",
            got=str(error)[:120] or "a signature that doesn't hold",
            remedy="Give the chain that belongs to the leaf.",
        ) from error


def _check_issuer(certificate: x509.Certificate, below: int, what: str) -> None:
    """Rule 4.

    Args:
        below: how many issuers stand between this certificate and the leaf.
    """
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        raise _refusal(what, "not-a-ca", certificate, "a CA", "no basic constraints") from None
    if not constraints.ca:
        raise _refusal(what, "not-a-ca", certificate, "a CA", "a certificate of an end entity")
    if constraints.path_length is not None and constraints.path_length < below:
        raise _refusal(
            what, "not-a-ca", certificate, f"a path of length {below}", str(constraints.path_length)
        )
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise _refusal(
            what, "not-a-ca", certificate, "a key that signs certificates", "another usage"
        )


def _signing_key(
    certificate: x509.Certificate, what: str
) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
    try:
        key = certificate.public_key()
    except ValueError as error:
        raise _refusal(what, "chain", certificate, "a readable key", str(error)[:80]) from error
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
        return key
    raise _refusal(
        what, "chain", certificate, f"ECDSA, or RSA of {_MIN_RSA_BITS} bits", "another key"
    )


def _refusal(
    what: str, code: str, at: str | x509.Certificate, expected: str, got: str
) -> NotGenuineError:
    field = at if isinstance(at, str) else _name(at)
    return NotGenuineError(
        f"{what}.{code}",
        f"the certificate chain doesn't hold at {field}",
        field=field,
        expected=expected,
        got=got,
        remedy="Give the vendor's own, current certificates.",
    )
