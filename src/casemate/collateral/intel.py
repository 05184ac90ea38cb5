"""Parts of Intel's Provisioning Certification Service (PCS), or of a PCCS that passes them on.

Source: Intel, "PCS API" version 4; a PCCS answers the same questions below its own address, and
has the root's revocation list as an answer of its own.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from casemate.collateral.wanted import (
    INTEL_PCS,
    Parts,
    Services,
    header,
    part,
    revocation_list,
    root_of,
)
from casemate.endorsements.certificates import load_certificates
from casemate.endorsements.dcap import DcapCollateral, parse_dcap_collateral
from casemate.types import Sha256, sha256
from casemate.verify.collateral import (
    Validity,
    check_intel_document,
    check_revocation_list,
    common_name,
    split_intel_document,
)
from casemate.verify.roots import INTEL_SGX_ROOT, VendorRoots

if TYPE_CHECKING:
    from casemate.collateral.web import Web

_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_TAIL = re.compile(r"(?:/(?:sgx|tdx)/certification/v[0-9])?/*\Z")
_CA_NAMES = {
    "platform": "Intel SGX PCK Platform CA",
    "processor": "Intel SGX PCK Processor CA",
}


@dataclass(frozen=True, slots=True)
class IntelTcb:
    """TCB information of a family of platforms.

    Args:
        tee: ``sgx`` or ``tdx``.
        fmspc: 12 lower-case hex digits.
    """

    tee: str
    fmspc: str

    @property
    def name(self) -> str:
        """What it is."""
        return f"intel/{self.tee}/tcb/{self.fmspc}"

    def service(self, services: Services) -> str:
        """The PCS or PCCS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Source: section "Get TCB Info"."""
        address = f"{_base(services)}/{self.tee}/certification/v4/tcb?fmspc={self.fmspc}"
        answer = web.get(address)
        chain = header(answer, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
        return {"body": answer.body, "chain": chain}

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_intel_document`."""
        return check_intel_document(
            part(parts, "body"), part(parts, "chain"), name="tcbInfo", at=at,
            roots={intel_root(roots)}, fields={"id": self.tee, "fmspc": self.fmspc},
        ).validity  # fmt: skip


@dataclass(frozen=True, slots=True)
class IntelQeIdentity:
    """The identity of Intel's quoting enclave.

    Args:
        tee: ``sgx`` or ``tdx``.
    """

    tee: str

    @property
    def name(self) -> str:
        """What it is."""
        return f"intel/{self.tee}/qe"

    def service(self, services: Services) -> str:
        """The PCS or PCCS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Source: section "Get Quoting Enclave Identity"."""
        answer = web.get(f"{_base(services)}/{self.tee}/certification/v4/qe/identity")
        return {"body": answer.body, "chain": header(answer, "sgx-enclave-identity-issuer-chain")}

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_intel_document`."""
        return check_intel_document(
            part(parts, "body"), part(parts, "chain"), name="enclaveIdentity", at=at,
            roots={intel_root(roots)}, fields={"id": "QE" if self.tee == "sgx" else "TD_QE"},
        ).validity  # fmt: skip


@dataclass(frozen=True, slots=True)
class IntelPckCrl:
    """Which PCK certificates are revoked.

    Args:
        ca: their issuer: ``platform`` or ``processor``.
    """

    ca: str

    @property
    def name(self) -> str:
        """What it is."""
        return f"intel/pck-crl/{self.ca}"

    def service(self, services: Services) -> str:
        """The PCS or PCCS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Source: section "Get Revocation List"."""
        answer = web.get(_pck_crl(services, self.ca))
        return {
            "body": revocation_list(answer.body),
            "chain": header(answer, "sgx-pck-crl-issuer-chain"),
        }

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_revocation_list`."""
        return check_revocation_list(
            part(parts, "body"),
            load_certificates(part(parts, "chain"), what="issuer chain"),
            issuer=_CA_NAMES[self.ca],
            at=at,
            roots={intel_root(roots)},
        )


@dataclass(frozen=True, slots=True)
class IntelRootCrl:
    """Which of the certificates that the root issued are revoked."""

    @property
    def name(self) -> str:
        """What it is."""
        return "intel/root-crl"

    def service(self, services: Services) -> str:
        """The PCS or PCCS."""
        return _base(services)

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Intel has the list as a file. No certificates come with it: the root's is in another."""
        own = _base(services) == INTEL_PCS
        address = _ROOT_CRL if own else f"{_base(services)}/sgx/certification/v4/rootcacrl"
        body = revocation_list(web.get(address).body)
        chain = header(web.get(_pck_crl(services, "platform")), "sgx-pck-crl-issuer-chain")
        return {"body": body, "chain": root_of(chain)}

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_revocation_list`."""
        chain = load_certificates(part(parts, "chain"), what="root")
        return check_revocation_list(
            part(parts, "body"),
            chain,
            issuer=common_name(chain[0]),
            at=at,
            roots={intel_root(roots)},
        )


def quote_parts(tee: str, fmspc: str, ca: str) -> tuple[
    IntelTcb, IntelQeIdentity, IntelPckCrl, IntelRootCrl
]:  # fmt: skip
    """All that a platform's quotes are verified with."""
    return IntelTcb(tee, fmspc), IntelQeIdentity(tee), IntelPckCrl(ca), IntelRootCrl()


def collateral_of(tcb: Parts, qe: Parts, pck_crl: Parts, root_crl: Parts) -> DcapCollateral:
    """The parts as one, in the form that PCCS clients exchange.

    Raises:
        MalformedError: ``collateral.form``, ``endorsements.*``.

    Does not check: anything else (`Wanted.check`).
    """
    tcb_info, tcb_signature = split_intel_document(part(tcb, "body"), "tcbInfo")
    identity, identity_signature = split_intel_document(part(qe, "body"), "enclaveIdentity")
    fields: Mapping[str, str] = {
        "pck_crl_issuer_chain": part(pck_crl, "chain").decode(),
        "root_ca_crl": part(root_crl, "body").hex(),
        "pck_crl": part(pck_crl, "body").hex(),
        "tcb_info_issuer_chain": part(tcb, "chain").decode(),
        "tcb_info": tcb_info,
        "tcb_info_signature": tcb_signature,
        "qe_identity_issuer_chain": part(qe, "chain").decode(),
        "qe_identity": identity,
        "qe_identity_signature": identity_signature,
    }
    return parse_dcap_collateral(json.dumps(fields).encode())


def _base(services: Services) -> str:
    return _TAIL.sub("", services.pccs, count=1)


def _pck_crl(services: Services, ca: str) -> str:
    return f"{_base(services)}/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"


def intel_root(roots: VendorRoots) -> Sha256:
    """Fingerprint of Intel's root."""
    return INTEL_SGX_ROOT if roots.intel is None else sha256(roots.intel)
