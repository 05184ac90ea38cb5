"""Where a launcher measures its contract into a TEE, and what a register becomes by that.

Source: docs/reference/evidence.md, "Registers". The registers start as zeros; extending one makes
it the hash of what it was, followed by what goes in.
"""

from __future__ import annotations

from collections.abc import Mapping

from casemate.evidence import Tee
from casemate.types import Sha256, Sha384, sha256, sha384
from casemate.verify import ClaimValue

TPM_PCR = 23
"""The register for applications: any program that may use the TPM may reset and extend it."""
NITRO_PCR = 16
"""The first that an enclave may extend; locked afterwards, or documents wouldn't show it."""
TDX_RTMR = 3
"""The one that is left to what runs in a TD."""


def tpm_register(contract: Sha384) -> Sha256:
    """What a TPM's register is once a launcher has reset and extended it."""
    return sha256(bytes(32) + sha256(contract))


def nitro_register(contract: Sha384) -> Sha384:
    """What a Nitro enclave's register is."""
    return sha384(bytes(48) + contract)


def tdx_register(before: bytes, contract: Sha384) -> Sha384:
    """What a TD's register is, by what it was."""
    return sha384(before + contract)


def registers_after_launch(
    tee: Tee, claims: Mapping[str, ClaimValue], contract: Sha384
) -> dict[str, tuple[bytes, ...]]:
    """What registers may hold in a launcher's evidence, by the names that policies use.

    Args:
        tee: of the evidence.
        claims: the registers in evidence that no launcher of this contract made.
        contract: its digest.

    Returns:
        The values of each register that the launch changes. Of a TD there are two: kernels before
        Linux 6.16 can't extend it.
    """
    match tee:
        case Tee.TPM | Tee.AZURE_SNP | Tee.AZURE_TDX:
            return {f"pcr{TPM_PCR}": (tpm_register(contract),)}
        case Tee.NITRO:
            return {f"pcr{NITRO_PCR}": (nitro_register(contract),)}
        case Tee.TDX:
            name = f"rtmr{TDX_RTMR}"
            before = claims.get(name)
            before = before if isinstance(before, bytes) else bytes(48)
            return {name: (before, tdx_register(before, contract))}
        case _:
            return {}
