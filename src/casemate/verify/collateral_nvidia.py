"""Whether what NVIDIA's services sent is right; the rules of `collateral` hold.

Source: see `casemate.endorsements.rim`.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection

from casemate.endorsements.rim import parse_rim
from casemate.types import Sha256
from casemate.verify.chain import verify_chain
from casemate.verify.collateral import Validity, another, validity_of
from casemate.verify.nvidia import check_p384


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
