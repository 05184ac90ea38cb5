"""Which TEE this machine is, by name or by looking; one door for every driver.

A driver is imported when its TEE is looked for, and no sooner.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from casemate.errors import CasemateError, UsageError
from casemate.evidence import Attester, Tee
from casemate.tee.faults import absent
from casemate.types import Sha384

AUTO = "auto"
SIMULATED = "simulated"
TPM = "tpm"
HARDWARE = ("sgx-gramine", "sgx-occlum", "tdx", "snp", "cca", "nitro", "azure")
"""What is looked for, in this order: an enclave sees its own interface alone."""

_KINDS = (Tee.SGX, Tee.AZURE_SNP, Tee.AZURE_TDX)
CHOICES = (AUTO, *HARDWARE, *(each.value for each in _KINDS), TPM, SIMULATED)
"""What ``--tee`` takes: names of interfaces, and of evidence. `AUTO` never takes the last two: they
don't keep the operator out."""


class MachineTee(Attester, Protocol):
    """What every driver is."""

    def extend(self, digest: Sha384) -> str | None:
        """Extend the register for what runs by a digest.

        Returns:
            The register's name as policies have it, or None where the platform has none.

        Raises:
            UnavailableError: it has one that can't be extended.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where things are, if not at their usual places.

    Args:
        device: of the TEE: the folder of configfs-tsm's reports or of Gramine's files, a device
            node, or a TPM's socket or ``HOST:PORT``.
        development_root: the simulated TEE's key; None for the user's own.
        measure: measures this program, for the simulated TEE.
        gpus: whether the machine's GPUs are attested along, all of them.
    """

    device: str | None = None
    development_root: Path | None = None
    measure: Callable[[], Sha384]
    gpus: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What came of looking for one TEE.

    Args:
        name: as ``--tee`` takes it.
        found: whether this machine is one.
        why: what speaks against it, or what it is.
    """

    name: str
    found: bool
    why: str


def open_tee(name: str, place: Place) -> tuple[str, MachineTee]:
    """Open the TEE of a name; with `AUTO`, the first one of `HARDWARE` that is there.

    With GPUs, the machine's are opened too; where it has none, that is as if the TEE was absent.

    Returns:
        Its name, and its driver.

    Raises:
        UsageError: ``tee.none`` where `AUTO` finds none, ``tee.absent`` where the named one isn't
            there, ``tee.forbidden``, ``tee.device``.
        UnavailableError: ``tee.*`` where it is there and doesn't answer. What is found and fails is
            never passed over for another.
    """
    if name != AUTO:
        return name, _open(name, place)
    if place.device is not None:
        raise UsageError(
            "tee.device", "a place is of one TEE, and it isn't said of which", field="--tee",
            expected=" or ".join((*HARDWARE, TPM)), got=AUTO,
        )  # fmt: skip
    missing = []
    for each in HARDWARE:
        try:
            return each, _open(each, place)
        except UsageError as error:
            if error.code != "tee.absent":
                raise
            missing.append(f"{each}: {error.got}")
    raise UsageError(
        "tee.none",
        "this machine shows no TEE",
        field="--tee",
        expected=" or ".join(HARDWARE),
        got="; ".join(missing),
        remedy="Run in one. A bare TPM (--tee tpm) and --tee simulated must be asked for by name.",
    )


def look(place: Place) -> tuple[Seen, ...]:
    """Look for every TEE, and say what speaks against each; nothing is attested."""
    found = []
    for name in (*HARDWARE, TPM):
        try:
            _open_cpu(name, place)
        except CasemateError as error:
            found.append(Seen(name=name, found=False, why=error.got or error.message))
        else:
            why = "a TPM is there; alone it keeps nobody out" if name == TPM else "this is one"
            found.append(Seen(name=name, found=True, why=why))
    return (*found, _gpus())


def _gpus() -> Seen:
    from casemate.tee.nvidia import LIBRARY, NAME, NvidiaGpu

    try:
        count = NvidiaGpu(library=LIBRARY).count
    except CasemateError as error:
        return Seen(name=NAME, found=False, why=error.got or error.message)
    return Seen(name=NAME, found=True, why=f"{count} GPU(s); only beside a CPU's TEE")


def _open(name: str, place: Place) -> MachineTee:
    cpu = _open_cpu(name, place)
    if not place.gpus:
        return cpu
    from casemate.tee.composite import CompositeTee
    from casemate.tee.nvidia import LIBRARY, every_gpu

    return CompositeTee(cpu, every_gpu(LIBRARY))


def _open_cpu(name: str, place: Place) -> MachineTee:
    device = place.device
    match name:
        case Tee.TDX | Tee.SNP | Tee.CCA:
            from casemate.tee.tsm import REPORTS, TsmReports

            return TsmReports(Tee(name), reports=Path(device) if device else REPORTS)
        case Tee.SGX:
            return _sgx(place)
        case "sgx-gramine":
            from casemate.tee.gramine import FOLDER, GramineEnclave

            return GramineEnclave(Path(device) if device else FOLDER)
        case "sgx-occlum":
            from casemate.tee import occlum
            from casemate.tee.device import DeviceFile

            node = DeviceFile(occlum.NAME, Path(device or occlum.DEVICE))
            return occlum.OcclumEnclave(node)
        case "nitro":
            from casemate.tee import nitro
            from casemate.tee.device import DeviceFile

            return nitro.NitroEnclave(DeviceFile(nitro.NAME, Path(device or nitro.DEVICE)))
        case "azure" | Tee.AZURE_SNP | Tee.AZURE_TDX:
            from casemate.tee.azure import AzureGuest

            return AzureGuest(device, tee=None if name == "azure" else Tee(name))
        case "tpm":
            from casemate.tee.tpm import TpmQuotes

            return TpmQuotes(device)
        case "simulated":
            return _simulated(place)
    raise UsageError(
        "tee.unknown", "there is no such TEE", field="--tee", expected=" or ".join(CHOICES),
        got=name,
    )  # fmt: skip


def _sgx(place: Place) -> MachineTee:
    """Whichever of the two interfaces this enclave has; a place that is a folder is Gramine's."""
    missing = []
    for name in ("sgx-gramine", "sgx-occlum"):
        try:
            return _open_cpu(name, place)
        except UsageError as error:
            if error.code != "tee.absent":
                raise
            missing.append(error.got or "")
    raise absent(Tee.SGX, "; ".join(missing))


def _simulated(place: Place) -> MachineTee:
    from casemate.tee.simulated import DevelopmentRoot, SimulatedTee, development_root_path

    root = DevelopmentRoot.load_or_create(place.development_root or development_root_path())
    return SimulatedTee(root, measurement=place.measure())
