"""Evidence put together from parts that are genuine, each by itself.

The attacker has machines of his own, secrets that leaked from machines since taken back, and all
that others ever showed. Everything that he signs, he signs with keys that vendors certified.
"""

import base64
import json

import cbor2
import pytest
from tests.support.certificates import with_chain

from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import NotGenuineError, UnavailableError
from casemate.evidence.detect import RATLS
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit import ratls
from casemate_testkit.azure import AzureVm
from casemate_testkit.cca import CcaPlatform
from casemate_testkit.dcap import DcapPlatform, Tcb, TcbLevel
from casemate_testkit.nitro import NitroModule
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import DAY, NOW, der
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

INTEL = DcapPlatform()
LEAKED = DcapPlatform(root=INTEL.root_ca, svn=4)  # an old platform, whose keys are out
AMD = SnpPlatform()
OTHER_AMD = SnpPlatform(root=AMD.ark, chip=bytes(range(64, 128)))
GPU, NITRO, CCA, TPM = NvidiaDevice(), NitroModule(), CcaPlatform(), Tpm()
OWN_CCA, OWN_TPM = CcaPlatform(), Tpm(root=TPM.root)
VM, OWN_VM = AzureVm(hardware=AMD), AzureVm(hardware=AMD)
ROOTS = VendorRoots(
    amd={"Milan": fingerprint(AMD.ark.certificate)},
    intel=INTEL.root_der,
    nitro=fingerprint(NITRO.root.certificate),
    nvidia_device=fingerprint(GPU.root.certificate),
    nvidia_rim=fingerprint(GPU.rim_root.certificate),
    tpm=(fingerprint(TPM.root.certificate),),
)
OF_AMD = [der(each) for each in AMD.certificates]
OF_GPU = [
    *(der(each) for each in (*GPU.chain, GPU.rim_root.certificate)),
    GPU.rim("driver"), GPU.rim("vbios"),
]  # fmt: skip


def verify(kind, data, *files, keys=()):
    found = sort_endorsements((str(number), each) for number, each in enumerate(files))
    return verify_anything(
        kind, data, at=NOW, roots=ROOTS, checks=CheckList(),
        endorsements=Endorsements(keys=tuple(keys)) if keys else found,
    )  # fmt: skip


def refused(code, *arguments, **options):
    with pytest.raises((NotGenuineError, UnavailableError)) as caught:
        verify(*arguments, **options)
    assert caught.value.code == code


def test_a_leaked_platforms_key_calls_itself_up_to_date():
    tcb = Tcb(levels=(TcbLevel(svn=5), TcbLevel(svn=4, status="OutOfDate")))
    assert verify("sgx", LEAKED.sgx_quote(), LEAKED.collateral(tcb)).claims["tcb_status"] == (
        "OutOfDate"
    )
    better = Tcb(levels=(TcbLevel(svn=4),))
    refused("dcap.signer", "sgx", LEAKED.sgx_quote(), LEAKED.collateral(better, signer=LEAKED.pck))


def test_a_leaked_platforms_quote_under_a_better_platforms_certificate():
    quote = LEAKED.sgx_quote()
    swapped = with_chain(quote, of=LEAKED, to=INTEL)
    refused("dcap.verification", "sgx", swapped, INTEL.collateral())


def test_a_leaked_key_signs_for_another_quoting_enclave():
    quote = INTEL.sgx_quote(signer=LEAKED.attestation_key)
    refused("dcap.verification", "sgx", quote, INTEL.collateral())


def test_another_guests_report_before_ones_own_virtual_tpm():
    shown = json.loads(VM.evidence())
    mine = json.loads(OWN_VM.evidence())
    hcl = bytearray(base64.b64decode(mine["hcl_report"]))
    hcl[32 : 32 + 0x4A0] = base64.b64decode(shown["hcl_report"])[32 : 32 + 0x4A0]
    mine["hcl_report"] = base64.b64encode(bytes(hcl)).decode()
    refused("azure.binding", "azure-snp", json.dumps(mine).encode(), *OF_AMD)


def test_ones_own_quote_behind_another_guests_paravisor():
    shown = json.loads(VM.evidence())
    spliced = {**shown, "tpm_quote": OWN_VM.tpm.quote()}
    refused("tpm.signature", "azure-snp", json.dumps(spliced).encode(), *OF_AMD)


def test_another_chips_certificate_for_ones_own_report():
    files = [der(each) for each in OTHER_AMD.certificates]
    refused("snp.chip-id", "snp", AMD.report(), *files)


def test_a_realm_of_ones_own_under_another_platforms_token():
    shown, own = cbor2.loads(CCA.token()), cbor2.loads(OWN_CCA.token())
    parts = {44234: shown.value[44234], 44241: own.value[44241]}
    spliced = cbor2.dumps(cbor2.CBORTag(399, parts))
    refused("cca.binding", "cca", spliced, keys=[CCA.cpak_spki])


def test_a_document_under_another_enclaves_certificate():
    other = NITRO.instance.issue("i-0-enc2", ca=False)
    refused("nitro.signature", "nitro", NITRO.document(certificate=other))


def test_evidence_of_another_in_ones_own_certificate():
    shown = INTEL.sgx_quote(report_data=b"\x77" * 64)
    for form in (ratls.interoperable, ratls.gramine, ratls.occlum):
        refused("ratls.report-data", RATLS, form(lambda _: shown), INTEL.collateral())


def test_a_key_of_ones_own_beside_another_tpms_answer():
    refused("tpm.no-activation", "tpm", OWN_TPM.evidence(), TPM.activation())
    spliced = json.loads(TPM.activation())
    spliced["ak_public"] = base64.b64encode(OWN_TPM.ak_public).decode()
    spliced["answered"] = "00" * 32  # the TPM that was asked doesn't open it for another key
    refused("tpm.activation", "tpm", OWN_TPM.evidence(), json.dumps(spliced).encode())


def test_a_device_that_was_taken_back_calls_itself_good():
    revoked = GPU.ocsp_responses(revoked=GPU.device.certificate)
    refused("nvidia.revoked", "nvidia", GPU.report(), *OF_GPU, *revoked)
    responder = GPU.device.responder()  # the device is an issuer: of its own leaf
    own = GPU.provisioner.ocsp_response(GPU.device.certificate, responder=responder)
    others = GPU.ocsp_responses(left_out=GPU.device.certificate)
    refused("nvidia.ocsp-signature", "nvidia", GPU.report(), *OF_GPU, own, *others)


def test_a_response_from_before_it_was_taken_back():
    old = GPU.ocsp_responses(start=NOW - 9 * DAY, end=NOW - 2 * DAY)
    refused("nvidia.no-ocsp", "nvidia", GPU.report(), *OF_GPU, *old)


def test_another_devices_response():
    other = GPU.provisioner.issue("GH100 A01 GSP BROM", path_length=0)
    response = GPU.provisioner.ocsp_response(other.certificate)
    others = GPU.ocsp_responses(left_out=GPU.device.certificate)
    refused("nvidia.no-ocsp", "nvidia", GPU.report(), *OF_GPU, response, *others)
