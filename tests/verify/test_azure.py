"""Evidence of Azure VMs of our own, on SEV-SNP and on TDX: one fault a case."""

from hashlib import sha256

import pytest

from casemate.endorsements.collection import Endorsements
from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.evidence.eventlog import parse_event_log
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.azure import AzureVm
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.eventlog import BOOT, event_log, registers
from casemate_testkit.pki import NOW
from casemate_testkit.snp import SnpPlatform

SNP, TDX = AzureVm(hardware=SnpPlatform()), AzureVm(hardware=DcapPlatform())
OTHER = AzureVm(hardware=SNP.hardware, secure_boot=False)
KINDS = {"azure-snp": SNP, "azure-tdx": TDX}
BOTH = pytest.mark.parametrize("kind", KINDS)
ROOTS = VendorRoots(
    amd={"Milan": fingerprint(SNP.hardware.ark.certificate)}, intel=TDX.hardware.root_der
)
ENDORSEMENTS = Endorsements(
    certificates=(SNP.hardware.ark.certificate, SNP.hardware.ask.certificate),
    dcap=parse_dcap_collateral(TDX.hardware.collateral(td=True)),
)


def verify(kind, evidence=None, *, log=None, roots=ROOTS, endorsements=ENDORSEMENTS):
    return verify_anything(
        kind, KINDS[kind].evidence() if evidence is None else evidence, at=NOW, roots=roots,
        endorsements=endorsements, checks=CheckList(),
        eventlog=None if log is None else parse_event_log(log),
    )  # fmt: skip


def refused(code, *arguments, **options):
    with pytest.raises(CasemateError) as caught:
        verify(*arguments, **options)
    assert caught.value.code == code
    return caught.value


@BOTH
def test_genuine_evidence(kind):
    report = verify(kind)
    assert report.tee == kind
    assert report.report_data == b"\x11" * 32 + bytes(32)
    assert report.claims["secure_boot"] is True
    assert report.claims["pcr4"] == registers()[4]
    measured = "measurement" if kind == "azure-snp" else "mr_td"
    assert report.claims[measured] == b"\x22" * 48


@BOTH
def test_its_event_log_is_the_virtual_tpms(kind):
    assert verify(kind, log=event_log()).checks[-1].name == "eventlog.replay"
    refused("eventlog.replay", kind, log=event_log(BOOT[1:]))


def test_what_the_paravisor_says_of_secure_boot_counts():
    assert verify("azure-snp", OTHER.evidence()).claims["secure_boot"] is False


FAULTS = {
    "another key's quote": ("tpm.signature", lambda vm: vm.evidence(OTHER.tpm.quote())),
    "other registers": (
        "tpm.pcr-digest", lambda vm: vm.evidence(vm.tpm.quote(claimed={7: b"\1" * 32})),
    ),
    "another document": (
        "azure.binding",
        lambda vm: vm.evidence(document=vm.variable_data.replace(b"true", b"false")),
    ),
    "hardware that vouches for nothing": (
        "azure.binding", lambda vm: vm.evidence(bound=b"\x11" * 64),
    ),
    "more than a digest in the report data": (
        "azure.binding",
        lambda vm: vm.evidence(bound=sha256(vm.variable_data).digest() * 2),
    ),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("fault", FAULTS)
def test_evidence_with_one_fault(kind, fault):
    code, made = FAULTS[fault]
    assert isinstance(refused(code, kind, made(KINDS[kind])), NotGenuineError)


def test_hardware_that_is_not_genuine():
    other = SnpPlatform()
    forged = AzureVm(hardware=other, ak=SNP.ak)
    refused("snp.chain", "azure-snp", forged.evidence())
    refused("dcap.verification", "azure-tdx", AzureVm(hardware=DcapPlatform()).evidence())


def test_a_trust_domain_with_faults_is_told_by_its_reason():
    quote = TDX.hardware.td_quote(
        td_attributes=bytes(8), report_data=sha256(TDX.variable_data).digest() + bytes(32)
    )
    refused("dcap.sept-ve-disable", "azure-tdx", TDX.evidence(hardware_report=quote))


@pytest.mark.parametrize(
    ("kind", "code"), [("azure-snp", "snp.no-certificate"), ("azure-tdx", "dcap.no-collateral")]
)
def test_without_endorsements_it_can_not_be_told(kind, code):
    assert isinstance(refused(code, kind, endorsements=Endorsements()), UnavailableError)


@pytest.mark.parametrize(("kind", "other"), [("azure-snp", TDX), ("azure-tdx", SNP)])
def test_the_other_hardwares_evidence(kind, other):
    refused("azure.kind", kind, other.evidence())


def test_our_roots_are_not_the_vendors():
    refused("snp.root", "azure-snp", roots=VendorRoots())
    refused("dcap.verification", "azure-tdx", roots=VendorRoots())
