"""The vendors' roots, pinned: SHA-256 of each whole certificate.

A caller may give others instead, which is how tests use authorities of their own; nothing in a
policy or an environment variable adds to these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from casemate.types import Sha256


def _pin(digits: str) -> Sha256:
    return Sha256(bytes.fromhex(digits))


AMD_ROOTS = {
    "Milan": _pin("69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
    "Genoa": _pin("4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
    "Turin": _pin("1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
}
"""AMD's ARK of each product line. Source: AMD KDS, ``/vcek/v1/PRODUCT/cert_chain``."""

INTEL_SGX_ROOT = _pin("44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3")
"""Intel SGX Root CA."""

AWS_NITRO_ROOT = _pin("641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b")
"""AWS Nitro Enclaves root."""

NVIDIA_DEVICE_ROOT = _pin("102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48")
"""NVIDIA Device Identity CA."""

NVIDIA_RIM_ROOT = _pin("12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1")
"""NVIDIA's root for reference integrity manifests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorRoots:
    """The roots of every vendor.

    Args:
        amd: fingerprint of the ARK by product.
        intel: another root certificate than Intel's, DER; None for Intel's own.
        nitro: fingerprint of AWS's root.
        nvidia_device: fingerprint of the root of devices.
        nvidia_rim: fingerprint of the root of manifests.
        tpm: fingerprints of TPM makers' roots. None is pinned: there are many makers, and which of
            them an endorsement key ends at is the claim ``ek_root``.
    """

    amd: Mapping[str, Sha256] = field(default_factory=lambda: AMD_ROOTS)
    intel: bytes | None = None
    nitro: Sha256 = AWS_NITRO_ROOT
    nvidia_device: Sha256 = NVIDIA_DEVICE_ROOT
    nvidia_rim: Sha256 = NVIDIA_RIM_ROOT
    tpm: tuple[Sha256, ...] = ()


VENDOR_ROOTS = VendorRoots()
"""The vendors' own."""
