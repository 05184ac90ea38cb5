"""Whether what AMD's key distribution service sent is right; the rules of `collateral` hold.

Source: AMD, "VCEK Certificate and KDS Interface Specification" (57230).
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from cryptography import x509

from casemate.types import Sha256
from casemate.verify.chain import verify_chain
from casemate.verify.collateral import Validity, another, common_name, form_error, validity_of
from casemate.verify.snp import certified_chip


def check_amd_issuers(
    chain: Sequence[x509.Certificate], *, kind: str, product: str, root: Sha256,
    at: datetime.datetime,
) -> Validity:  # fmt: skip
    """AMD's issuer of chips' certificates (``vcek``) or of providers' (``vlek``), and its root.

    Args:
        chain: issuer and root.
        kind: ``vcek`` or ``vlek``.
        product: ``Milan``, ``Genoa`` or ``Turin``.
        root: fingerprint of the product's root.
        at: the time.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: see `casemate.verify.collateral`.
    """
    if len(chain) != 2:
        raise form_error("AMD's chain", "two certificates: issuer and root", f"{len(chain)}")
    verify_chain(chain, roots={root}, at=at, what="collateral")
    expected = f"SEV-{product}" if kind == "vcek" else f"SEV-VLEK-{product}"
    if (got := common_name(chain[0])) != expected:
        raise another("AMD's chain", expected, got)
    return validity_of(chain)


def check_vcek(
    chain: Sequence[x509.Certificate], *, product: str, hardware_id: bytes,
    tcb: Mapping[str, int], root: Sha256, at: datetime.datetime,
) -> Validity:  # fmt: skip
    """A chip's certificate.

    Args:
        chain: it, AMD's issuer and root.
        product: see `check_amd_issuers`.
        hardware_id: that it must be of.
        tcb: component to version, that it must be derived for.
        root: fingerprint of the product's root.
        at: the time.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: see `casemate.verify.collateral`.
    """
    check_amd_issuers(chain[1:], kind="vcek", product=product, root=root, at=at)
    verify_chain(chain, roots={root}, at=at, what="collateral")
    leaf = chain[0]
    if (got := common_name(leaf)) != "SEV-VCEK":
        raise another("VCEK", "SEV-VCEK", got)
    certified = certified_chip(leaf)
    if certified.product != product:
        raise another("VCEK.product", product, certified.product)
    if certified.hardware_id != hardware_id:
        raise another("VCEK.hardware-id", hardware_id.hex(), certified.hardware_id.hex())
    if certified.tcb != dict(tcb):
        raise another("VCEK.tcb", str(dict(tcb)), str(certified.tcb))
    return validity_of(chain)
