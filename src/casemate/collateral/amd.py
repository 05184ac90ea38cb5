"""Parts of AMD's key distribution service (KDS).

Source: AMD, "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification"
(57230), revision 1.00, chapter 4. A VLEK itself isn't to be had there: its cloud provider has it,
and guests get it from the host.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casemate.collateral.wanted import Parts, Services, part, revocation_list, root_of
from casemate.endorsements.certificates import load_certificate, load_certificates
from casemate.errors import NotGenuineError
from casemate.evidence.snp import TcbVersion
from casemate.types import Sha256
from casemate.verify.collateral import Validity, check_revocation_list
from casemate.verify.collateral_amd import check_amd_issuers, check_vcek
from casemate.verify.roots import VendorRoots

if TYPE_CHECKING:
    from casemate.collateral.web import Web

_NAMES = {
    "fmc": "fmcSPL",
    "bootloader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}
"""Components as AMD's service names them, in its order."""


@dataclass(frozen=True, slots=True)
class AmdVcek:
    """A chip's certificate for a TCB, with its issuers.

    Args:
        product: ``Milan``, ``Genoa`` or ``Turin``.
        hardware_id: 64 bytes, of Turin 8.
        tcb: that the report names.
    """

    product: str
    hardware_id: bytes
    tcb: TcbVersion

    @property
    def name(self) -> str:
        """What it is."""
        tcb = ".".join(map(str, self.tcb.parts().values()))
        return f"amd/vcek/{self.product}/{self.hardware_id.hex()}/{tcb}"

    def service(self, services: Services) -> str:
        """The KDS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Source: section 4.1."""
        base = f"{_base(services)}/vcek/v1/{self.product}"
        query = "&".join(f"{_NAMES[name]}={value:02}" for name, value in self.tcb.parts().items())
        return {
            "body": web.get(f"{base}/{self.hardware_id.hex()}?{query}").body,
            "chain": web.get(f"{base}/cert_chain").body,
        }

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_vcek`."""
        leaf = load_certificate(part(parts, "body"), what="VCEK")
        issuers = load_certificates(part(parts, "chain"), what="AMD's chain")
        return check_vcek(
            [leaf, *issuers], product=self.product, hardware_id=self.hardware_id,
            tcb=self.tcb.parts(), root=_root(roots, self.product), at=at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AmdChain:
    """AMD's issuer of leaves, and its root.

    Args:
        product: see `AmdVcek`.
        kind: of the leaves: ``vcek`` or ``vlek``.
    """

    product: str
    kind: str

    @property
    def name(self) -> str:
        """What it is."""
        return f"amd/chain/{self.product}/{self.kind}"

    def service(self, services: Services) -> str:
        """The KDS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Source: section 4.2."""
        return {
            "chain": web.get(f"{_base(services)}/{self.kind}/v1/{self.product}/cert_chain").body
        }

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_amd_issuers`."""
        return check_amd_issuers(
            load_certificates(part(parts, "chain"), what="AMD's chain"),
            kind=self.kind, product=self.product, root=_root(roots, self.product), at=at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class AmdCrl:
    """Which of AMD's issuers are revoked.

    Args:
        product: see `AmdVcek`.
        kind: of the leaves: ``vcek`` or ``vlek``.
    """

    product: str
    kind: str

    @property
    def name(self) -> str:
        """What it is."""
        return f"amd/crl/{self.product}/{self.kind}"

    def service(self, services: Services) -> str:
        """The KDS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Source: section 4.3."""
        base = f"{_base(services)}/{self.kind}/v1/{self.product}"
        return {
            "body": revocation_list(web.get(f"{base}/crl").body),
            "chain": root_of(web.get(f"{base}/cert_chain").body),
        }

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """AMD's root signs the list."""
        return check_revocation_list(
            part(parts, "body"), load_certificates(part(parts, "chain"), what="root"),
            issuer=f"ARK-{self.product}", at=at, roots={_root(roots, self.product)},
        )  # fmt: skip


def _root(roots: VendorRoots, product: str) -> Sha256:
    root = roots.amd.get(product)
    if root is None:
        raise NotGenuineError(
            "collateral.root",
            "no root is pinned for that product",
            field="product",
            expected=" or ".join(sorted(roots.amd)),
            got=product,
        )
    return root


def _base(services: Services) -> str:
    return services.kds.rstrip("/")
