"""Every driver, from its stand-in to a released secret: over a real channel to a real broker."""

import base64
import datetime
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.attested import (
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    refusal_of,
    running_broker,
)
from tests.support.kernels import mounted, needs_fuse
from tests.support.tpms import needs_tpm

from casemate.channel.knowledge import knowledge_from_files
from casemate.errors import NotAcceptableError
from casemate.evidence import Tee
from casemate.evidence.snp_certificates import ARK, ASK, VCEK
from casemate.launcher.fetch import fetch_secrets
from casemate.launcher.status import Status
from casemate.policy import AnyOf, Policy, PolicyDocument, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS
from casemate.project.programs import pick_port
from casemate.protocol.contract import BrokerIdentity
from casemate.protocol.registers import registers_after_launch
from casemate.tee.azure import AzureGuest
from casemate.tee.gramine import GramineEnclave
from casemate.tee.nitro import NitroEnclave
from casemate.tee.occlum import OcclumEnclave
from casemate.tee.platform import MachineTee
from casemate.tee.tpm import TpmQuotes
from casemate.tee.tsm import TsmReports
from casemate.types import sha256
from casemate.verify import ClaimValue
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.azure_guest import MetadataService, furnish
from casemate_testkit.cca import CcaPlatform
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.kernel_nsm import NsmDevice
from casemate_testkit.kernel_sgx import GramineFiles, OcclumDevice
from casemate_testkit.kernel_tsm import TsmFolder, certificate_table
from casemate_testkit.nitro import NitroModule
from casemate_testkit.pki import DAY
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.software_tpm import SoftwareTpm

TODAY = datetime.datetime.now(datetime.UTC)
AMD = SnpPlatform(until=TODAY + 30 * DAY)
INTEL = DcapPlatform(until=TODAY + 30 * DAY)
AWS, ARM = NitroModule(leaf_options={"start": TODAY - DAY, "end": TODAY + DAY}), CcaPlatform()
VENDORS = VendorRoots(
    amd={"Milan": fingerprint(AMD.ark.certificate)},
    intel=INTEL.root_der,
    nitro=fingerprint(AWS.root.certificate),
)
CURRENT = Tcb(start=TODAY - DAY, end=TODAY + 20 * DAY)
MEASURED, OTHER = b"\x22" * 48, b"\x77" * 48


def snp(measured: bytes):
    return lambda bound, _=0: AMD.report(x050=bound, x090=measured)


@contextmanager
def on_snp(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    parts = ((VCEK, AMD.vcek), (ASK, AMD.ask), (ARK, AMD.ark))
    table = certificate_table(
        *((guid, each.certificate.public_bytes(Encoding.DER)) for guid, each in parts)
    )
    with mounted(TsmFolder("sev_guest", snp(measured), table), folder / "report") as reports:
        yield TsmReports(Tee.SNP, reports=reports)


@contextmanager
def on_tdx(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    def quote(bound: bytes, _: int) -> bytes:
        return INTEL.td_quote(report_data=bound, mr_td=measured)

    with mounted(TsmFolder("tdx_guest", quote), folder / "report") as reports:
        yield TsmReports(Tee.TDX, reports=reports, rtmr3=folder / "an older kernel")


@contextmanager
def on_cca(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    def token(bound: bytes, _: int) -> bytes:
        return ARM.token(challenge=bound, rim=measured)

    with mounted(TsmFolder("arm_cca_guest", token), folder / "report") as reports:
        yield TsmReports(Tee.CCA, reports=reports)


@contextmanager
def on_nitro(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    del folder

    def document(registers, fields) -> bytes:
        return AWS.document(pcrs=registers, timestamp=datetime.datetime.now(datetime.UTC), **fields)

    device = NsmDevice(document)
    device.registers[0] = measured
    yield NitroEnclave(device)


def enclave(measured: bytes):
    return lambda bound: INTEL.sgx_quote(report_data=bound, mr_enclave=measured[:32])


@contextmanager
def on_gramine(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    with mounted(GramineFiles(enclave(measured)), folder / "attestation") as files:
        yield GramineEnclave(files)


@contextmanager
def on_occlum(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    del folder
    yield OcclumEnclave(OcclumDevice(enclave(measured)))


@contextmanager
def on_azure(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    def pem(*parts) -> str:
        return "".join(each.certificate.public_bytes(Encoding.PEM).decode() for each in parts)

    thim = {"vcekCert": pem(AMD.vcek), "certificateChain": pem(AMD.ask, AMD.ark)}
    with SoftwareTpm(folder) as tpm, MetadataService() as service:
        furnish(tpm, snp(measured))
        service.answers["GET /metadata/THIM/amd/certification"] = (200, thim)
        yield AzureGuest(tpm.place, metadata_service=service.address)


@contextmanager
def on_azure_tdx(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    def tdreport(bound: bytes) -> bytes:
        return bytes(128) + bound + bytes(832)

    def quote(body) -> dict[str, str]:
        bound = base64.urlsafe_b64decode(body["report"] + "==")[128:192]
        made = INTEL.td_quote(report_data=bound, mr_td=measured)
        return {"quote": base64.urlsafe_b64encode(made).decode()}

    with SoftwareTpm(folder) as tpm, MetadataService() as service:
        furnish(tpm, tdreport, kind="tdx")
        service.answers["POST /acc/tdquote"] = (200, quote)
        yield AzureGuest(tpm.place, metadata_service=service.address)


@contextmanager
def on_tpm(folder: Path, measured: bytes) -> Iterator[MachineTee]:
    with SoftwareTpm(folder) as tpm:
        yield TpmQuotes(tpm.place, rsa=measured == OTHER)  # another key is what differs here


@dataclass(frozen=True)
class Machine:
    """A machine, and what a policy says of its evidence."""

    on: object
    tee: Tee
    measured: dict[str, ClaimValue]
    endorsement: bytes | None = None
    needs: tuple[pytest.MarkDecorator, ...] = field(default=())


SGX = INTEL.collateral(CURRENT, lists_end=TODAY + 20 * DAY)
TDX = INTEL.collateral(CURRENT, td=True, lists_end=TODAY + 20 * DAY)
MACHINES = {
    "snp": Machine(on_snp, Tee.SNP, {"measurement": MEASURED}, None, (needs_fuse,)),
    "tdx": Machine(on_tdx, Tee.TDX, {"mr_td": MEASURED}, TDX, (needs_fuse,)),
    "gramine": Machine(on_gramine, Tee.SGX, {"mr_enclave": MEASURED[:32]}, SGX, (needs_fuse,)),
    "occlum": Machine(on_occlum, Tee.SGX, {"mr_enclave": MEASURED[:32]}, SGX),
    "cca": Machine(
        on_cca, Tee.CCA, {"rim": MEASURED, "cpak": bytes(sha256(ARM.cpak_spki))}, ARM.cpak_spki,
        (needs_fuse,),
    ),
    "nitro": Machine(on_nitro, Tee.NITRO, {"pcr0": MEASURED}),
    "azure-snp": Machine(on_azure, Tee.AZURE_SNP, {"measurement": MEASURED}, None, (needs_tpm,)),
    "azure-tdx": Machine(on_azure_tdx, Tee.AZURE_TDX, {"mr_td": MEASURED}, TDX, (needs_tpm,)),
    "tpm": Machine(on_tpm, Tee.TPM, {}, None, (needs_tpm,)),
}  # fmt: skip
EACH = [pytest.param(name, marks=machine.needs) for name, machine in MACHINES.items()]


def policy(
    contract, tee: Tee, measured: dict[str, ClaimValue], *, launch: bool = True
) -> PolicyDocument:
    constraints = {
        each.name: default_constraint(each) or Unchecked("another test's matter")
        for each in FIELDS[tee]
    }
    constraints |= {name: AnyOf((value,)) for name, value in measured.items()}
    if "debug" in constraints:
        constraints["debug"] = AnyOf((False,))
    if launch:
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
    if machine.endorsement is not None:
        (file := tmp_path / "endorsement").write_bytes(machine.endorsement)
        endorsements = (file,)
    contract = contract_at(port := pick_port(0))
    folders = [tmp_path / each for each in ("broker", "here", "elsewhere")]
    for folder in folders:
        folder.mkdir()
    with machine.on(folders[1], MEASURED) as tee, machine.on(folders[2], OTHER) as other:
        measured = dict(machine.measured)
        if isinstance(tee, TpmQuotes):
            measured["ak"] = bytes(sha256(tee.attestation_key().spki))
        for each in (tee, other):  # as a launcher does first of all
            if (register := each.extend(contract.digest())) is not None:
                after = registers_after_launch(machine.tee, {}, contract.digest())
                measured[register] = bytes(after[register][-1])
        document = policy(contract, machine.tee, measured)
        with running_broker(
            folders[0], contract=contract, document=document, port=port, vendors=VENDORS,
            endorsements=endorsements,
        ) as broker:  # fmt: skip
            assert fetched(contract, tee, timeout=3.0) == SECRETS
            assert refusal_of(contract, other) == "policy.mismatch"
            (line,) = broker.lines("released")
    assert line["claims"]["tee"] == machine.tee
    if machine.tee in {Tee.TPM, Tee.NITRO, Tee.AZURE_SNP, Tee.AZURE_TDX}:
        assert set(measured) & {"pcr16", "pcr23"}


@needs_tpm
@pytest.mark.parametrize("elsewhere", [False, True], ids=["the contract's", "another"])
def test_a_broker_proves_itself_by_its_tee(tmp_path, elsewhere):
    for folder in ("broker", "here", "elsewhere"):
        (tmp_path / folder).mkdir()
    contract = contract_at(port := pick_port(0))
    with SoftwareTpm(tmp_path / "here") as tpm, SoftwareTpm(tmp_path / "elsewhere") as other:
        named = bytes(sha256(TpmQuotes(tpm.place).attestation_key().spki))
        rules = policy(contract, Tee.TPM, {"ak": named}, launch=False).policies
        document = PolicyDocument(policies=rules, secrets={})
        broker = BrokerIdentity(address=contract.broker.address, policy=document.render())
        contract = replace(contract, broker=broker)
        attester = TpmQuotes((other if elsewhere else tpm).place)
        with running_broker(
            tmp_path / "broker", contract=contract, port=port, attester=attester
        ) as running:
            status = Status(as_json=False, began=time.monotonic())

            def fetch():
                return fetch_secrets(
                    contract, launcher_tee(), timeout=3.0, status=status,
                    knowledge=knowledge_from_files(()),
                )  # fmt: skip

            if elsewhere:
                with pytest.raises(NotAcceptableError) as caught:
                    fetch()
                assert [each.field for each in caught.value.mismatches] == ["ak"]
                assert running.released() == []
            else:
                assert {name: each.reveal() for name, each in fetch().items()} == SECRETS
