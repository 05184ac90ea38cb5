"""Whether what a vendor's service sent is the vendor's, is what was asked for, and is current.

Each part is looked at by itself before it is stored, so that a service that lies, or somebody
between, can neither fill a cache with rubbish nor turn time back.

 1. The part has the form that the vendor gives it.
 2. Its signer's chain ends in the vendor's pinned root, and its signer may sign such a part: not
    every key under the root may.
 3. It is about what was asked for.
 4. It is current at the given time.

Source: Intel, "PCS API" version 4; AMD, "VCEK Certificate and KDS Interface Specification".
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from casemate.encoding import MapReader, decode_json
from casemate.endorsements.certificates import load_certificates, load_revocation_lists
from casemate.errors import MalformedError, NotGenuineError, UnavailableError
from casemate.types import Sha256
from casemate.verify.chain import verify_chain
from casemate.verify.roots import INTEL_SGX_ROOT

MAX_SIZE = 1024 * 1024
TCB_SIGNER = "Intel SGX TCB Signing"
"""The common name of who signs TCB information and QE identities."""
_TAIL = re.compile(r',"signature":"([0-9a-fA-F]{128})"\}\s*\Z')


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """When a part is good.

    Args:
        start: when it was issued.
        end: when it ends, or when its next edition is due.
        number: of its edition, where it has one: a newer one has no smaller number.
    """

    start: datetime.datetime
    end: datetime.datetime
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedText:
    """A document of Intel's, and the signature over its very bytes.

    Args:
        text: the JSON, as it was signed.
        signature: R and S, 128 hex digits.
        validity: when it is good.
    """

    text: str
    signature: str
    validity: Validity


def check_intel_document(
    body: bytes,
    chain: bytes,
    *,
    name: str,
    fields: Mapping[str, str],
    at: datetime.datetime,
    roots: Collection[Sha256] = (INTEL_SGX_ROOT,),
) -> SignedText:
    """TCB information, or an enclave's identity.

    Args:
        body: what the service sent.
        chain: PEM certificates, signer first.
        name: of the signed part: ``tcbInfo`` or ``enclaveIdentity``.
        fields: what it must say: ``id``, ``fmspc``; letter case doesn't count.
        at: the time.
        roots: fingerprints of the roots that are trusted.

    Raises:
        MalformedError: ``collateral.form``. NotGenuineError: ``collateral.*``.
        UnavailableError: ``collateral.outdated``.
    """
    text, signature = split_intel_document(body, name)  # 1
    certificates = load_certificates(chain, what=f"{name} issuer chain")
    verify_chain(certificates, roots=roots, at=at, what="collateral")  # 2
    _require_signer(certificates)
    _check_signature(certificates[0], text, signature, name)
    document = MapReader(decode_json(text.encode(), what=name, max_size=MAX_SIZE), what=name)
    for field, wanted in fields.items():  # 3
        if (got := document.take(field, str)).lower() != wanted.lower():
            raise another(f"{name}.{field}", wanted, got)
    validity = Validity(
        start=_time(document, "issueDate"),
        end=_time(document, "nextUpdate"),
        number=document.take("tcbEvaluationDataNumber", int),
    )
    require_current(validity, at, name)  # 4
    return SignedText(text=text, signature=signature, validity=validity)


def check_revocation_list(
    der: bytes,
    chain: Sequence[x509.Certificate],
    *,
    issuer: str,
    at: datetime.datetime,
    roots: Collection[Sha256],
) -> Validity:
    """A revocation list.

    Args:
        der: the list.
        chain: of its issuer, which signed it, leaf first.
        issuer: the issuer's common name.
        at: the time.
        roots: fingerprints of the roots that are trusted.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: as above.
    """
    (parsed,) = load_revocation_lists(der, what="revocation list")  # 1
    verify_chain(chain, roots=roots, at=at, what="collateral")  # 2
    key = chain[0].public_key()
    signed = parsed.issuer == chain[0].subject and parsed.is_signature_valid(key)  # type: ignore[arg-type]
    if not signed:
        raise NotGenuineError(
            "collateral.signature",
            "the revocation list isn't its issuer's",
            field="revocation list",
            expected=f"signed by {chain[0].subject.rfc4514_string()[:120]}",
            got=parsed.issuer.rfc4514_string()[:120],
            remedy="Ask the vendor's own service.",
        )
    if (got := common_name(chain[0])) != issuer:  # 3
        raise another("revocation list", issuer, got)
    if parsed.next_update_utc is None:
        raise form_error("revocation list", "a time of the next update", "none")
    validity = Validity(start=parsed.last_update_utc, end=parsed.next_update_utc)
    require_current(validity, at, "revocation list")  # 4
    return validity


def require_current(validity: Validity, at: datetime.datetime, what: str) -> None:
    """Rule 4.

    Raises:
        UnavailableError: ``collateral.outdated``.
    """
    if not validity.start <= at < validity.end:
        raise UnavailableError(
            "collateral.outdated",
            f"the {what} isn't current",
            field=what,
            expected=f"a time from {validity.start.isoformat()} to {validity.end.isoformat()}",
            got=at.isoformat(),
            remedy="Ask the vendor's own service, or check the clock.",
        )


def common_name(certificate: x509.Certificate) -> str:
    """The subject's common name; empty without one."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def split_intel_document(body: bytes, name: str) -> tuple[str, str]:
    """The signed text, byte by byte as it came, and the signature in hex.

    Raises:
        MalformedError: ``collateral.form``.

    Does not check: the signature.
    """
    decode_json(body, what=name, max_size=MAX_SIZE)
    text, head = body.decode(), f'{{"{name}":'
    tail = None
    if text.startswith(head):
        _, end = json.JSONDecoder().raw_decode(text, len(head))
        tail = _TAIL.match(text, end)
    if tail is None:
        raise form_error(name, f'{head}…,"signature":"128 hex digits"}}', text[:40])
    return text[len(head) : tail.start()], tail[1].lower()


def validity_of(chain: Sequence[x509.Certificate]) -> Validity:
    """When all certificates of a chain are valid."""
    return Validity(
        start=max(each.not_valid_before_utc for each in chain),
        end=min(each.not_valid_after_utc for each in chain),
    )


def _require_signer(chain: Sequence[x509.Certificate]) -> None:
    """Only Intel's own signer of such documents: PCK keys end in the same root."""
    if len(chain) != 2 or common_name(chain[0]) != TCB_SIGNER:
        raise NotGenuineError(
            "collateral.signer",
            "somebody signed who may not sign this",
            field="signer",
            expected=f"{TCB_SIGNER}, directly below the root",
            got=f"{common_name(chain[0])[:80]}, {len(chain) - 1} below it",
            remedy="Ask Intel's PCS, or a PCCS that passes on what it gives.",
        )


def _check_signature(signer: x509.Certificate, text: str, signature: str, name: str) -> None:
    key = signer.public_key()
    r, s = int(signature[:64], 16), int(signature[64:], 16)
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise InvalidSignature
        key.verify(encode_dss_signature(r, s), text.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise NotGenuineError(
            "collateral.signature",
            f"the signature of the {name} doesn't hold",
            field=name,
            expected=f"by {TCB_SIGNER}, on P-256",
            remedy="Ask Intel's PCS, or a PCCS that passes on what it gives.",
        ) from error


def _time(fields: MapReader, name: str) -> datetime.datetime:
    text = fields.take(name, str)
    try:
        moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError as error:
        raise form_error(fields.name(name), "a time such as 2025-06-19T10:00:00Z", text) from error
    return moment.replace(tzinfo=datetime.UTC)


def another(field: str, expected: str, got: str) -> NotGenuineError:
    """Rule 3: the vendor's, and not what was asked for."""
    return NotGenuineError(
        "collateral.another",
        "the service sent something else than it was asked for",
        field=field,
        expected=expected,
        got=got[:120],
        remedy="Ask the vendor's own service.",
    )


def form_error(field: str, expected: str, got: str) -> MalformedError:
    """Rule 1."""
    return MalformedError(
        "collateral.form",
        f"the service's answer isn't what it should be at {field}",
        field=field,
        expected=expected,
        got=got,
        remedy="Is the address that of such a service?",
    )
