"""Whether a certificate was revoked, by what OCSP responders say.

 1. A response speaks of this certificate: serial number, its issuer's name and key.
 2. The issuer signed it, or a responder that the issuer, or who stands above it in the same chain,
    certified for that purpose; and the response names that signer.
 3. It is current: from its "this update" until its "next update". Where it names no end, a day.
 4. It answers the request that was made, where the request's nonce is given.
 5. It says "good". Of several, one that says "revoked" is enough.

Source: RFC 6960, sections 3.2 and 4.2.2.2; RFC 8954.
"""

from __future__ import annotations

import datetime
import hmac
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from casemate.endorsements.ocsp import OcspResponse, OcspStatus
from casemate.errors import NotGenuineError, UnavailableError
from casemate.verify.chain import check_validity

_LIFE_WITHOUT_END = datetime.timedelta(days=1)
_HASHES: dict[str, hashes.SHA1 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "sha1": hashes.SHA1(),  # noqa: S303  names an issuer; nothing is signed with it
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}


def check_ocsp(
    certificate: x509.Certificate,
    issuers: Sequence[x509.Certificate],
    responses: Sequence[OcspResponse],
    *,
    at: datetime.datetime,
    what: str,
    nonce: bytes | None = None,
) -> datetime.datetime:
    """Whether a responder says that ``certificate`` is good.

    Args:
        certificate: the one in question.
        issuers: the chain above it, its issuer first, verified already.
        responses: those at hand; those about the certificate are picked.
        at: the time at which a response must be current.
        what: whose, for codes.
        nonce: of the request, where it was made just now.

    Returns:
        As of when the newest of its statements is.

    Raises:
        UnavailableError: ``WHAT.no-ocsp`` without a current response, ``WHAT.ocsp-unknown``.
        NotGenuineError: ``WHAT.ocsp-signature``, ``WHAT.ocsp-nonce``, ``WHAT.revoked``.

    Does not check: whether the responder's own certificate was revoked.
    """
    name = certificate.subject.rfc4514_string()[:120]
    current: list[OcspStatus] = []
    about = 0
    for response in responses:
        statuses = [s for s in response.statuses if _is_about(s, certificate, issuers[0])]  # 1
        about += len(statuses)
        if not statuses:
            continue
        _check_signer(response, issuers, at, what)  # 2
        if nonce is not None and not hmac.compare_digest(nonce, response.nonce or b""):  # 4
            raise _refusal(what, "ocsp-nonce", name, "an answer to this request", "another")
        current += [each for each in statuses if _is_current(each, at)]  # 3
    if any(each.status == "revoked" for each in current):  # 5
        raise _refusal(what, "revoked", name, "a certificate that isn't revoked", "a revoked one")
    if not current:
        raise _unavailable(
            what, "no-ocsp", name, at, "an outdated one" if about else "none of this certificate"
        )
    if any(each.status != "good" for each in current):
        raise _unavailable(what, "ocsp-unknown", name, at, "unknown")
    return max(each.this_update for each in current)


def _is_about(status: OcspStatus, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if status.serial_number != certificate.serial_number:
        return False
    wanted = (
        ocsp.OCSPRequestBuilder()
        .add_certificate(certificate, issuer, _HASHES[status.hash_algorithm])
        .build()
    )
    return (
        status.issuer_name_hash == wanted.issuer_name_hash
        and status.issuer_key_hash == wanted.issuer_key_hash
    )


def _is_current(status: OcspStatus, at: datetime.datetime) -> bool:
    end = status.next_update or status.this_update + _LIFE_WITHOUT_END
    return status.this_update <= at < end


def _check_signer(
    response: OcspResponse, issuers: Sequence[x509.Certificate], at: datetime.datetime, what: str
) -> None:
    """Rule 2."""
    named = [each for each in (issuers[0], *response.certificates) if _is_named(response, each)]
    if not named:
        raise _refusal(what, "ocsp-signature", "responder", "the issuer or its responder", "nobody")
    signer = named[0]
    if signer != issuers[0]:
        _check_responder(signer, issuers, at, what)
    key, digest = signer.public_key(), _HASHES[response.signature_hash]
    try:
        match key:
            case ec.EllipticCurvePublicKey():
                key.verify(response.signature, response.signed, ec.ECDSA(digest))
            case rsa.RSAPublicKey():
                key.verify(response.signature, response.signed, padding.PKCS1v15(), digest)
            case _:
                raise InvalidSignature
    except InvalidSignature as error:
        raise _refusal(
            what, "ocsp-signature", "signature", f"by {signer.subject.rfc4514_string()[:120]}",
            "another",
        ) from error  # fmt: skip


def _is_named(response: OcspResponse, certificate: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return certificate.subject == response.responder_name
    key_id = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    return key_id.digest == response.responder_key_hash


def _check_responder(
    responder: x509.Certificate,
    issuers: Sequence[x509.Certificate],
    at: datetime.datetime,
    what: str,
) -> None:
    name = responder.subject.rfc4514_string()[:120]
    check_validity(responder, at=at, what=what)
    try:
        usages = responder.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise _refusal(what, "ocsp-signature", name, "a certificate of a responder", "another use")
    for issuer in issuers:
        if issuer.subject != responder.issuer:
            continue
        try:
            responder.verify_directly_issued_by(issuer)
        except (InvalidSignature, ValueError, TypeError):
            continue
        return
    raise _refusal(
        what, "ocsp-signature", name, "certified by who issued the certificate in question",
        responder.issuer.rfc4514_string()[:120],
    )  # fmt: skip


def _unavailable(
    what: str, code: str, name: str, at: datetime.datetime, got: str
) -> UnavailableError:
    return UnavailableError(
        f"{what}.{code}",
        "whether a certificate was revoked can't be told",
        field=name,
        expected=f'an OCSP response that says "good", current at {at.isoformat()}',
        got=got,
        remedy="Ask the vendor's OCSP responder.",
    )


def _refusal(what: str, code: str, field: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        f"{what}.{code}",
        f"the OCSP response doesn't hold at {field}"
        if code != "revoked"
        else "a certificate was revoked",
        field=field,
        expected=expected,
        got=got,
        remedy="Don't trust what the certificate is of."
        if code == "revoked"
        else "Ask the vendor's own OCSP responder.",
    )
