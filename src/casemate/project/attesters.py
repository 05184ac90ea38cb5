"""Who a program says it is: an identity key, or the TEE it runs in."""

from __future__ import annotations

from pathlib import Path

from casemate.errors import UsageError
from casemate.evidence import Attester
from casemate.project.keys import load_identity_key
from casemate.tee.platform import SIMULATED, Place, open_tee
from casemate.tee.simulated import measure_broker
from casemate.types import sha256


def broker_attester(identity: Path | None, tee: str | None, place: Place) -> tuple[Attester, str]:
    """The broker's attester, and in words what it proves.

    Args:
        identity: the file of an identity key.
        tee: one of `casemate.tee.platform.CHOICES`.
        place: where that TEE is; see `broker_place`.

    Raises:
        UsageError: neither or both were given, the key can't be used, or the TEE isn't there.
        UnavailableError: ``tee.*``.
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
    assert tee is not None
    name, attester = open_tee(tee, place)
    if name == SIMULATED:
        return attester, f"simulated TEE, measurement {place.measure()}"
    return attester, f"TEE: {name}"


def broker_place(device: str | None, development_root: Path | None, *, gpus: bool) -> Place:
    """Where the broker's TEE is; simulated, it measures the broker."""
    return Place(
        device=device, development_root=development_root, measure=measure_broker, gpus=gpus
    )
