"""The driver of Azure's guests, against a software TPM that is furnished like theirs."""

import base64
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.tpms import needs_tpm

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import NotGenuineError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.tee.azure import ATTESTATION_KEY, HCL_REPORT, AzureGuest
from casemate.tee.tpm import RSA_AK
from casemate.types import ReportData, sha256, sha384
from casemate.verify import Known, TrustAnchors, verify_evidence
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.azure_guest import MetadataService, furnish, hcl_report
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.pki import NOW
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.software_tpm import SoftwareTpm

pytestmark = needs_tpm
REPORT_DATA = ReportData(bytes(range(32)) + bytes(32))
AMD, INTEL = SnpPlatform(), DcapPlatform()
CERTIFICATION, TD_QUOTE = "GET /metadata/THIM/amd/certification", "POST /acc/tdquote"


def pem(*parts) -> str:
    return "".join(each.certificate.public_bytes(Encoding.PEM).decode() for each in parts)


THIM = {"vcekCert": pem(AMD.vcek), "certificateChain": pem(AMD.ask, AMD.ark), "tcbm": "DB18000004"}


def snp(report_data: bytes) -> bytes:
    return AMD.report(x050=report_data)


def tdreport(report_data: bytes) -> bytes:
    """What the TDX module makes: report data stands at offset 128."""
    return bytes(128) + report_data + bytes(832)


def quote_of(body) -> dict[str, str]:
    """The host's quoting service: a quote for the report data of a TDREPORT."""
    report = base64.urlsafe_b64decode(body["report"] + "==")
    assert len(report) == 1024
    quote = INTEL.td_quote(report_data=report[128:192])
    return {"quote": base64.urlsafe_b64encode(quote).decode().rstrip("=")}


@contextmanager
def guest(folder, kind="snp", answers=None):
    with SoftwareTpm(folder) as tpm, MetadataService() as service:
        furnish(tpm, snp if kind == "snp" else tdreport, kind=kind)
        service.answers = {CERTIFICATION: (200, THIM), TD_QUOTE: (200, quote_of)}
        service.answers |= answers or {}
        yield tpm, service


def verified(evidence):
    vendors = VendorRoots(amd={"Milan": fingerprint(AMD.ark.certificate)}, intel=INTEL.root_der)
    collateral = sort_endorsements([("collateral", INTEL.collateral(td=True))])
    known = Known(at=NOW, endorsements=collateral)
    return verify_evidence(evidence, anchors=TrustAnchors(vendors=vendors), known=known)


def test_a_guest_on_snp_is_genuine_down_to_the_chip(tmp_path):
    with guest(tmp_path) as (tpm, service):
        tee = AzureGuest(tpm.place, metadata_service=service.address)
        evidence = tee.attest(REPORT_DATA)
        assert service.asked == [("true", None)]
        assert tee.extend(sha384(b"a contract")) == "pcr23"
        later = tee.attest(REPORT_DATA)
    assert evidence.tee is Tee.AZURE_SNP
    report = verified(evidence)
    assert report.report_data == REPORT_DATA
    assert report.claims["chip_id"] == AMD.chip
    extended = sha256(bytes(32) + sha256(sha384(b"a contract")))
    assert verified(later).claims["pcr23"] == extended


def test_a_guest_on_tdx_is_genuine_down_to_the_platform(tmp_path):
    with guest(tmp_path, "tdx") as (tpm, service):
        evidence = AzureGuest(tpm.place, metadata_service=service.address).attest(REPORT_DATA)
    assert evidence.tee is Tee.AZURE_TDX
    report = verified(evidence)
    assert report.report_data == REPORT_DATA
    assert report.claims["ppid"] == INTEL.ppid


def test_a_tpm_without_a_paravisors_report_is_none_of_azures(tmp_path):
    with SoftwareTpm(tmp_path) as tpm, pytest.raises(UsageError) as caught:
        AzureGuest(tpm.place)
    assert caught.value.code == "tee.absent"
    assert "0x1400001" in caught.value.got


def test_a_key_that_the_paravisor_does_not_name_is_not_used(tmp_path):
    with SoftwareTpm(tmp_path) as tpm:
        tpm.persist(ATTESTATION_KEY, RSA_AK)
        other = rsa.generate_private_key(65537, 2048).public_key()
        tpm.define(HCL_REPORT, hcl_report(other, snp), owner_read=True)
        with pytest.raises(UnavailableError) as caught:
            AzureGuest(tpm.place)
    assert caught.value.code == "tee.unexpected"


FAULTS = {
    "an error": ((500, {}), "tee.metadata"),
    "no object": ((200, []), "tee.unexpected"),
    "another object": ((200, {"vcekCert": 1}), "tee.unexpected"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_metadata_service_that_gives_no_certificates_is_told(tmp_path, fault):
    answer, code = FAULTS[fault]
    with (
        guest(tmp_path, answers={CERTIFICATION: answer}) as (tpm, service),
        pytest.raises(UnavailableError) as caught,
    ):
        AzureGuest(tpm.place, metadata_service=service.address)
    assert caught.value.code == code


def test_a_metadata_service_that_is_out_of_reach_is_told(tmp_path):
    with guest(tmp_path) as (tpm, service):
        address = service.address
        service._server.server_close()
        with pytest.raises(UnavailableError) as caught:
            AzureGuest(tpm.place, metadata_service=address)
    assert caught.value.code == "tee.metadata"


def test_a_host_that_gives_another_machines_quote_is_found_out(tmp_path):
    def other(_):
        return {"quote": base64.b64encode(INTEL.td_quote(report_data=bytes(64))).decode()}

    with guest(tmp_path, "tdx", {TD_QUOTE: (200, other)}) as (tpm, service):
        evidence = AzureGuest(tpm.place, metadata_service=service.address).attest(REPORT_DATA)
    with pytest.raises(NotGenuineError) as caught:
        verified(evidence)
    assert caught.value.code == "azure.binding"
