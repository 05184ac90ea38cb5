"""Endorsements of every kind, sorted out of files in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from casemate.errors import MalformedError

if TYPE_CHECKING:
    from cryptography import x509

    from casemate.endorsements.activation import AkActivation
    from casemate.endorsements.dcap import DcapCollateral
    from casemate.endorsements.jwks import TokenKey
    from casemate.endorsements.ocsp import OcspResponse
    from casemate.endorsements.rim import Rim


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """What came along to verify evidence with; none of it is trusted by being here.

    Args:
        certificates: in the order in which they came.
        revocation_lists: of any issuer.
        dcap: Intel's collateral, if any.
        dcap_early: what Intel published early for the same platforms: a later edition, which isn't
            judged by, and tells what is to come.
        rims: reference integrity manifests.
        keys: DER SubjectPublicKeyInfo of bare public keys.
        ocsp_responses: of any responder.
        token_keys: of those who sign tokens, with the names that tokens call them by.
        ak_activations: which attestation keys answered through which endorsement keys.
    """

    certificates: tuple[x509.Certificate, ...] = ()
    revocation_lists: tuple[x509.CertificateRevocationList, ...] = ()
    dcap: DcapCollateral | None = None
    dcap_early: DcapCollateral | None = None
    rims: tuple[Rim, ...] = ()
    keys: tuple[bytes, ...] = ()
    ocsp_responses: tuple[OcspResponse, ...] = ()
    token_keys: tuple[TokenKey, ...] = ()
    ak_activations: tuple[AkActivation, ...] = ()


def sort_endorsements(files: Iterable[tuple[str, bytes]]) -> Endorsements:
    """Sort files by what they hold.

    Args:
        files: name and content of each: certificates, revocation lists and public keys in PEM or
            DER, OCSP responses in DER, DCAP collateral and AK activations in JSON, manifests in
            XML, keys in JWK, key sets in JWKS.

    Raises:
        MalformedError: ``endorsements.*``, naming the file.
    """
    files = tuple(files)
    if not files:
        return Endorsements()
    # Imported here: a launcher that has none starts without every kind's parser.
    from casemate.endorsements.sorting import sort_files

    return sort_files(files)


def require_lasting(sent: Endorsements) -> None:
    """Who is judged may send what doesn't change with time: certificates and manifests.

    Raises:
        MalformedError: ``evidence.endorsements`` where there's anything else.
    """
    if replace(sent, certificates=(), rims=()) != Endorsements():
        raise MalformedError(
            "evidence.endorsements",
            "the peer sends what only the verifier may say",
            field="endorsements",
            expected="certificates and manifests",
            got="revocation lists, collateral or keys",
            remedy="Send the certificates alone; the verifier fetches the rest itself.",
        )
