"""What is publicly known to vouch for nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from casemate.verify import ClaimValue

PUBLIC_SIGNERS: Mapping[ClaimValue, str] = MappingProxyType(
    {
        bytes.fromhex(digest): whose
        for digest, whose in (
            ("83d719e77deaca1470f6baf62a4d774303c899db69020f9c70ee1dfc08c7ce9e",
             "Occlum's default signing key"),
            ("07a2cf8fe5e57c1321e852797462924ee9b3b1d2bfcba0723b8fb346df646391",
             "a sample key of Intel's SGX SDK (SealUnseal)"),
            ("6c1c59c89ed4dd9825649494fcb2ebf96a8a617a1d0589fe0147f0ef1b3f784d",
             "a sample key of Intel's SGX SDK (SampleAttestedTLS)"),
        )
    }
)  # fmt: skip
"""MRSIGNER of private keys that are published: anybody can sign an enclave with them.

MRSIGNER is the SHA-256 of the key's modulus, little-endian. Source: computed from the private keys
that the repositories of Occlum (``etc/template/Enclave.pem``) and of Intel's SDK publish."""
