"""Whether what NVIDIA's services sent is right; the rules of `collateral` hold.

Source: see `casemate.endorsements.rim`.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from cryptography import x509

from casemate.endorsements.ocsp import parse_ocsp_response
from casemate.endorsements.rim import parse_rim
from casemate.errors import NotGenuineError
from casemate.types import Sha256
from casemate.verify.chain import verify_chain
from casemate.verify.collateral import Validity, another, validity_of
from casemate.verify.nvidia import check_p384
from casemate.verify.ocsp import check_ocsp

_DAY = datetime.timedelta(days=1)
_REVOKED = "collateral.revoked"


def check_manifest(
    xml: bytes, *, version: str, product: str | None, roots: Collection[Sha256],
    at: datetime.datetime,
) -> Validity:  # fmt: skip
    """A reference integrity manifest of NVIDIA's.

    Args:
        xml: the document.
        version: of the firmware that it must be of, without dots.
        product: such as ``GH100``; None where the question didn't say.
        roots: fingerprints of the roots that are trusted.
        at: the time.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: see `casemate.verify.collateral`.
    """
    manifest = parse_rim(xml)
    verify_chain(manifest.certificates, roots=roots, at=at, what="collateral")
    check_p384(
        manifest.certificates[0], manifest.signature, manifest.signed, "collateral.signature"
    )
    if (got := manifest.version.replace(".", "").upper()) != version.upper():
        raise another("RIM.colloquialVersion", version, got)
    if product is not None and manifest.product != product:
        raise another("RIM.product", product, manifest.product)
    return validity_of(manifest.certificates)


def check_status(
    der: bytes, chain: Sequence[x509.Certificate], *, roots: Collection[Sha256],
    at: datetime.datetime,
) -> Validity:  # fmt: skip
    """What a responder says of a certificate, whatever it says.

    Args:
        der: the response.
        chain: the certificate, its issuers, the root.
        roots: fingerprints of the roots that are trusted.
        at: the time.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: see `casemate.verify.collateral`; a
            responder that doesn't know the certificate has not answered.
    """
    verify_chain(chain, roots=roots, at=at, what="collateral")
    response = parse_ocsp_response(der)
    try:
        check_ocsp(chain[0], chain[1:], [response], at=at, what="collateral")
    except NotGenuineError as error:
        if error.code != _REVOKED:  # that is an answer: whoever verifies refuses the certificate
            raise
    mine = [each for each in response.statuses if each.serial_number == chain[0].serial_number]
    return Validity(
        start=max(each.this_update for each in mine),
        end=min(each.next_update or each.this_update + _DAY for each in mine),
    )
