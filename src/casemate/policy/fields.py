"""What a policy can constrain: one table a TEE. Adding a TEE adds a table, not code."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from casemate.evidence import Tee
from casemate.policy.hardware import HARDWARE_FIELDS
from casemate.policy.kinds import LAUNCH, Field, Kind

__all__ = ["FIELDS", "GPU_FIELDS", "Field", "Kind"]


FIELDS: Mapping[Tee, tuple[Field, ...]] = MappingProxyType(
    {
        **HARDWARE_FIELDS,
        Tee.SIMULATED: (
            Field(
                name="root",
                kind=Kind.PUBLIC_KEY,
                must_check=True,
                remedy="Name the development root's public key, if this is a development machine.",
            ),
            Field(
                name="measurement",
                kind=Kind.DIGEST,
                lengths=(48,),
                must_check=True,
                remedy="The launcher's code is not the one that the policy was written for. "
                "Name this measurement only if the change is yours.",
            ),
            Field(
                name="debug",
                kind=Kind.BOOL,
                must_check=True,
                remedy="Don't release secrets to a launcher that can be looked into.",
            ),
            Field(name="svn", kind=Kind.UINT, remedy="Update the launcher."),
            Field(
                name="platform_id",
                kind=Kind.DIGEST,
                lengths=(32,),
                remedy="Add the platform, if it is one that you know.",
            ),
            LAUNCH,
        ),
        Tee.IDENTITY_KEY: (
            Field(
                name="key",
                kind=Kind.PUBLIC_KEY,
                must_check=True,
                remedy="Name the peer's identity key, if it is the intended peer.",
            ),
            LAUNCH,
        ),
    }
)
"""The fields of each TEE. Every alternative for a TEE must name every one of its fields."""

GPU_FIELDS: tuple[Field, ...] = (
    Field(
        name="count",
        kind=Kind.UINT,
        must_check=True,
        remedy="Present every GPU that the policy counts, and no other.",
    ),
    *(field for field in HARDWARE_FIELDS[Tee.NVIDIA] if field is not LAUNCH),
)
"""What ``gpus`` of an alternative says: how many, and what holds for each of them."""
