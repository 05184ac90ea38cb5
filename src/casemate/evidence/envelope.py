"""What an Attester hands out: which TEE made it, the bytes, and the endorsements beside them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tee(StrEnum):
    """Who vouches for a piece of Evidence."""

    SIMULATED = "simulated"
    """A development root: no protection at all (specs/simulated-evidence.md)."""
    NITRO = "nitro"
    """AWS Nitro Enclaves."""
    CCA = "cca"
    """Arm Confidential Compute Architecture."""
    TPM = "tpm"
    """A TPM 2.0 whose attestation key somebody trusts."""
    AZURE_SNP = "azure-snp"
    """Azure's virtual TPM, vouched for by SEV-SNP."""
    AZURE_TDX = "azure-tdx"
    """Azure's virtual TPM, vouched for by TDX."""
    SGX = "sgx"
    """Intel SGX."""
    TDX = "tdx"
    """Intel TDX."""
    NVIDIA = "nvidia"
    """An NVIDIA GPU in confidential-computing mode."""
    SNP = "snp"
    """AMD SEV-SNP."""
    COMPOSITE = "composite"
    """One of the above, and GPUs with it (specs/composite-evidence.md)."""
    MAA = "maa"
    """Microsoft Azure Attestation: its service verified, and its token says what."""
    EAR = "ear"
    """A verifier that is trusted by its key: its attestation result."""
    IDENTITY_KEY = "identity-key"
    """No TEE: a long-lived key signs, and its holder is trusted by name (a pinned broker)."""


CHANNEL_TEES = tuple(tee for tee in Tee if tee not in {Tee.NVIDIA, Tee.MAA, Tee.EAR})
"""Those whose evidence opens attested channels (specs/attested-channel.md, "Evidence message").

A GPU answers anybody's nonce: alone, its evidence doesn't tell who is at the other end. Tokens say
what somebody else verified, at another time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence as it travels: unparsed, not yet verified.

    Args:
        tee: what made it, as its sender claims.
        data: the evidence in that TEE's own format.
        endorsements: certificates and collateral sent along, in that TEE's own format.
    """

    tee: Tee
    data: bytes
    endorsements: tuple[bytes, ...] = ()
