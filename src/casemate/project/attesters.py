"""Who a program says it is: an identity key, or the TEE it runs in."""

from __future__ import annotations

from pathlib import Path

from casemate.errors import UsageError
from casemate.evidence import Attester
from casemate.project.keys import load_identity_key
from casemate.tee.simulated import (
    DevelopmentRoot,
    SimulatedTee,
    development_root_path,
    measure_broker,
)
from casemate.types import sha256


def broker_attester(
    identity: Path | None, tee: str | None, development_root: Path | None
) -> tuple[Attester, str]:
    """The broker's attester, and in words what it proves.

    Args:
        identity: the file of an identity key.
        tee: ``simulated``.
        development_root: the simulated TEE's key, if not the user's own.

    Raises:
        UsageError: neither or both were given, or the key can't be used.
    """
    if (identity is None) == (tee is None):
        raise UsageError(
            "broker.identity",
            "a broker proves who it is by exactly one of --identity and --tee",
            field="--identity",
            remedy="Make a key with: casemate key new --for identity broker.key",
        )
    if identity is not None:
        key = load_identity_key(identity)
        return key, f"identity key {sha256(key.spki)}"
    root = DevelopmentRoot.load_or_create(development_root or development_root_path())
    measurement = measure_broker()
    return SimulatedTee(root, measurement=measurement), f"simulated TEE, measurement {measurement}"
