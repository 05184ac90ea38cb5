"""Every driver, from its stand-in to a released secret: over a real channel to a real broker."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.attested import SECRETS, contract_at, fetched, refusal_of, running_broker
from tests.support.kernels import mounted, needs_fuse
from tests.support.tpms import needs_tpm

from casemate.evidence import Attester, Tee
from casemate.evidence.snp_certificates import ARK, ASK, VCEK
from casemate.policy import AnyOf, Policy, PolicyDocument, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS
from casemate.project.programs import pick_port
from casemate.tee.azure import AzureGuest
from casemate.tee.gramine import GramineEnclave
from casemate.tee.occlum import OcclumEnclave
from casemate.tee.tpm import TpmQuotes
from casemate.tee.tsm import TsmReports
from casemate.types import sha256
from casemate.verify import ClaimValue
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.azure_guest import MetadataService, furnish
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.kernel_sgx import GramineFiles, OcclumDevice
from casemate_testkit.kernel_tsm import TsmFolder, certificate_table
from casemate_testkit.pki import DAY
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.software_tpm import SoftwareTpm

TODAY = datetime.datetime.now(datetime.UTC)
AMD = SnpPlatform(until=TODAY + 30 * DAY)
INTEL = DcapPlatform(until=TODAY + 30 * DAY)
VENDORS = VendorRoots(amd={"Milan": fingerprint(AMD.ark.certificate)}, intel=INTEL.root_der)
CURRENT = Tcb(start=TODAY - DAY, end=TODAY + 20 * DAY)
MEASURED, OTHER = b"\x22" * 48, b"\x77" * 48


def snp(measured: bytes):
    return lambda bound, _=0: AMD.report(x050=bound, x090=measured)


@contextmanager
def on_snp(folder: Path, measured: bytes) -> Iterator[Attester]:
    parts = ((VCEK, AMD.vcek), (ASK, AMD.ask), (ARK, AMD.ark))
    table = certificate_table(
        *((guid, each.certificate.public_bytes(Encoding.DER)) for guid, each in parts)
    )
    with mounted(TsmFolder("sev_guest", snp(measured), table), folder / "report") as reports:
        yield TsmReports(Tee.SNP, reports=reports)


@contextmanager
def on_tdx(folder: Path, measured: bytes) -> Iterator[Attester]:
    def quote(bound: bytes, _: int) -> bytes:
        return INTEL.td_quote(report_data=bound, mr_td=measured)

    with mounted(TsmFolder("tdx_guest", quote), folder / "report") as reports:
        yield TsmReports(Tee.TDX, reports=reports)


def enclave(measured: bytes):
    return lambda bound: INTEL.sgx_quote(report_data=bound, mr_enclave=measured[:32])


@contextmanager
def on_gramine(folder: Path, measured: bytes) -> Iterator[Attester]:
    with mounted(GramineFiles(enclave(measured)), folder / "attestation") as files:
        yield GramineEnclave(files)


@contextmanager
def on_occlum(folder: Path, measured: bytes) -> Iterator[Attester]:
    del folder
    yield OcclumEnclave(OcclumDevice(enclave(measured)))


@contextmanager
def on_azure(folder: Path, measured: bytes) -> Iterator[Attester]:
    def pem(*parts) -> str:
        return "".join(each.certificate.public_bytes(Encoding.PEM).decode() for each in parts)

    thim = {"vcekCert": pem(AMD.vcek), "certificateChain": pem(AMD.ask, AMD.ark)}
    with SoftwareTpm(folder) as tpm, MetadataService() as service:
        furnish(tpm, snp(measured))
        service.answers["GET /metadata/THIM/amd/certification"] = (200, thim)
        yield AzureGuest(tpm.place, metadata_service=service.address)


@contextmanager
def on_tpm(folder: Path, measured: bytes) -> Iterator[Attester]:
    with SoftwareTpm(folder) as tpm:
        yield TpmQuotes(tpm.place, rsa=measured == OTHER)  # another key is what differs here


@dataclass(frozen=True)
class Machine:
    """A machine, and what a policy says of its evidence."""

    on: object
    tee: Tee
    measured: dict[str, ClaimValue]
    collateral: bytes | None = None
    needs: tuple[pytest.MarkDecorator, ...] = field(default=())


SGX = INTEL.collateral(CURRENT, lists_end=TODAY + 20 * DAY)
TDX = INTEL.collateral(CURRENT, td=True, lists_end=TODAY + 20 * DAY)
MACHINES = {
    "snp": Machine(on_snp, Tee.SNP, {"measurement": MEASURED}, None, (needs_fuse,)),
    "tdx": Machine(on_tdx, Tee.TDX, {"mr_td": MEASURED}, TDX, (needs_fuse,)),
    "gramine": Machine(on_gramine, Tee.SGX, {"mr_enclave": MEASURED[:32]}, SGX, (needs_fuse,)),
    "occlum": Machine(on_occlum, Tee.SGX, {"mr_enclave": MEASURED[:32]}, SGX),
    "azure": Machine(on_azure, Tee.AZURE_SNP, {"measurement": MEASURED}, None, (needs_tpm,)),
    "tpm": Machine(on_tpm, Tee.TPM, {}, None, (needs_tpm,)),
}
EACH = [pytest.param(name, marks=machine.needs) for name, machine in MACHINES.items()]


def policy(contract, tee: Tee, measured: dict[str, ClaimValue]) -> PolicyDocument:
    constraints = {
        each.name: default_constraint(each) or Unchecked("another test's matter")
        for each in FIELDS[tee]
    }
    constraints |= {name: AnyOf((value,)) for name, value in measured.items()}
    if "debug" in constraints:
        constraints["debug"] = AnyOf((False,))
    constraints["launch"] = AnyOf((bytes(contract.digest()),))
    alternative = Alternative(tee=tee, constraints=constraints)
    return PolicyDocument(
        policies={"launcher": Policy(name="launcher", alternatives=(alternative,))},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )


@pytest.mark.parametrize("name", EACH)
def test_from_the_stand_in_to_the_secrets(tmp_path, name):
    machine = MACHINES[name]
    endorsements: tuple[Path, ...] = ()
    if machine.collateral is not None:
        (file := tmp_path / "collateral.json").write_bytes(machine.collateral)
        endorsements = (file,)
    contract = contract_at(port := pick_port(0))
    folders = [tmp_path / each for each in ("broker", "here", "elsewhere")]
    for folder in folders:
        folder.mkdir()
    with machine.on(folders[1], MEASURED) as tee, machine.on(folders[2], OTHER) as other:
        measured = machine.measured
        if isinstance(tee, TpmQuotes):
            measured = {"ak": bytes(sha256(tee.attestation_key().spki))}
        document = policy(contract, machine.tee, measured)
        with running_broker(
            folders[0], contract=contract, document=document, port=port, vendors=VENDORS,
            endorsements=endorsements,
        ) as broker:  # fmt: skip
            assert fetched(contract, tee, timeout=3.0) == SECRETS
            assert refusal_of(contract, other) == "policy.mismatch"
            (line,) = broker.lines("released")
    assert line["claims"]["tee"] == machine.tee
