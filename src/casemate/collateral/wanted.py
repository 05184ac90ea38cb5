"""What can be wanted of a vendor's service: how it is asked for, and seen to be right.

A `Wanted` names one part: one answer of one service, with the certificates that came with it. A
part is kept as it came and checked again each time it is used.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

from cryptography.hazmat.primitives.serialization import Encoding

from casemate.endorsements.certificates import load_certificates, load_revocation_lists
from casemate.errors import MalformedError
from casemate.verify.collateral import Validity
from casemate.verify.roots import VendorRoots

if TYPE_CHECKING:
    from casemate.collateral.web import Answer, Web

Parts: TypeAlias = Mapping[str, bytes]
"""What came, by name: ``body``, and ``chain`` where certificates came with it."""

MAX_BODY = 4 << 20
"""Largest answer that is taken, in bytes."""
INTEL_PCS = "https://api.trustedservices.intel.com"
AMD_KDS = "https://kdsintf.amd.com"
NVIDIA_RIM = "https://rim.attestation.nvidia.com"
NVIDIA_OCSP = "https://ocsp.ndis.nvidia.com"
_HEX = re.compile(rb"30(?:[0-9a-fA-F]{2})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Where vendors' services are; another address is a mirror or a cache of the same.

    Args:
        pccs: Intel's PCS, or a PCCS; an address that ends in ``/sgx/certification/v3`` or ``v4``,
            as other tools want it, is taken too.
        kds: AMD's key distribution service.
        rim: NVIDIA's service for reference integrity manifests.
        ocsp: NVIDIA's OCSP responder.
    """

    pccs: str = INTEL_PCS
    kds: str = AMD_KDS
    rim: str = NVIDIA_RIM
    ocsp: str = NVIDIA_OCSP


VENDOR_SERVICES = Services()
"""The vendors' own."""


class Wanted(Protocol):
    """A part that can be fetched; equal ones have equal names."""

    @property
    def name(self) -> str:
        """What it is, unambiguously and readably: ``intel/tdx/tcb/50806f000000``."""

    def service(self, services: Services) -> str:
        """The address of who has it."""

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Ask for it.

        Raises:
            UnavailableError: ``collateral.unreachable``, ``collateral.refused``.
            MalformedError: ``collateral.form``.
        """

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See that it is the vendor's, what was asked for, and current.

        Raises:
            MalformedError, NotGenuineError, UnavailableError: ``collateral.*``.
        """


def part(parts: Parts, name: str) -> bytes:
    """One of the parts that must be there.

    Raises:
        MalformedError: ``collateral.form``.
    """
    if name not in parts:
        raise unexpected("parts", name, ", ".join(sorted(parts)) or "none")
    return parts[name]


def revocation_list(body: bytes) -> bytes:
    """A revocation list in DER; services give it as it is, in hex, or as PEM.

    Raises:
        MalformedError: ``endorsements.revocation-list``.
    """
    text = body.strip()
    if _HEX.fullmatch(text):
        body = bytes.fromhex(text.decode("ascii"))
    lists = load_revocation_lists(body, what="revocation list")
    if len(lists) != 1:
        raise unexpected("body", "one revocation list", f"{len(lists)}")
    return lists[0].public_bytes(Encoding.DER)


def header(answer: Answer, *names: str) -> bytes:
    """The certificates in a header, PEM in percent-encoding.

    Args:
        answer: a service's.
        names: of the header, in lower case; the first that is there counts.

    Raises:
        MalformedError: ``collateral.form``.
    """
    for name in names:
        if name in answer.headers:
            return unquote_to_bytes(answer.headers[name])
    raise unexpected("headers", " or ".join(names), ", ".join(answer.headers))


def host_of(url: str) -> str:
    """Host and port of an address, for messages."""
    return urlsplit(url).netloc or url[:80]


def root_of(chain: bytes) -> bytes:
    """The last certificate of a chain in PEM, as PEM.

    Raises:
        MalformedError: ``endorsements.certificate``.
    """
    return load_certificates(chain, what="issuer chain")[-1].public_bytes(Encoding.PEM)


def unexpected(field: str, expected: str, got: str) -> MalformedError:
    """An answer that isn't what its service gives."""
    return MalformedError(
        "collateral.form",
        f"the service's answer has an unexpected {field}",
        field=field,
        expected=expected,
        got=got[:160],
        remedy="Is the address that of such a service?",
    )
