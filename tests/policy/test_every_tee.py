"""Evidence of every TEE of our own, judged by the strict policy that is made from it."""

import pytest

from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import appraise
from casemate.policy.derive import policy_from_report
from casemate.policy.review import Weight, review
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.azure import AzureVm
from casemate_testkit.cca import CcaPlatform
from casemate_testkit.dcap import DcapPlatform, Tcb, TcbLevel
from casemate_testkit.nitro import NitroModule
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import NOW, der
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tpm import Tpm

AMD, INTEL, GPU, CCA, NITRO, TPM = (
    SnpPlatform(), DcapPlatform(), NvidiaDevice(), CcaPlatform(), NitroModule(), Tpm(),
)  # fmt: skip
ON_AMD, ON_INTEL = AzureVm(hardware=AMD), AzureVm(hardware=INTEL)
ROOTS = VendorRoots(
    amd={"Milan": fingerprint(AMD.ark.certificate)},
    intel=INTEL.root_der,
    nitro=fingerprint(NITRO.root.certificate),
    nvidia_device=fingerprint(GPU.root.certificate),
    nvidia_rim=fingerprint(GPU.rim_root.certificate),
)
CHIP = [der(each) for each in (*AMD.certificates, *AMD.revocation_lists())]
DEVICE = [der(each) for each in (*GPU.chain, GPU.rim_root.certificate)]
MANIFESTS = [GPU.rim("driver"), GPU.rim("vbios")]
EVIDENCE = {
    Tee.SGX: (INTEL.sgx_quote(), [INTEL.collateral()]),
    Tee.TDX: (INTEL.td_quote(), [INTEL.collateral(td=True)]),
    Tee.SNP: (AMD.report(), CHIP),
    Tee.NITRO: (NITRO.document(), []),
    Tee.TPM: (TPM.evidence(), [TPM.activation()]),
    Tee.AZURE_SNP: (ON_AMD.evidence(), CHIP),
    Tee.AZURE_TDX: (ON_INTEL.evidence(), [INTEL.collateral(td=True)]),
    Tee.NVIDIA: (GPU.report(), [*DEVICE, *MANIFESTS, *GPU.ocsp_responses()]),
    Tee.CCA: (CCA.token(), []),
}
WEAKER = {
    Tee.SGX: (
        [INTEL.collateral(Tcb(levels=(TcbLevel(status="SWHardeningNeeded"),)))], "tcb_status",
    ),
    Tee.TDX: (
        [INTEL.collateral(Tcb(levels=(TcbLevel(status="OutOfDate"),)), td=True)], "tcb_status",
    ),
    Tee.SNP: ([der(each) for each in AMD.certificates], "revocation"),
    Tee.AZURE_SNP: ([der(each) for each in AMD.certificates], "revocation"),
    Tee.NVIDIA: ([*DEVICE, *MANIFESTS], "revocation"),
}  # fmt: skip


def verified(tee, endorsements=None):
    data, own = EVIDENCE[tee]
    files = own if endorsements is None else endorsements
    found = sort_endorsements((str(number), each) for number, each in enumerate(files))
    if tee is Tee.CCA:
        found = Endorsements(keys=(CCA.cpak_spki,))
    return verify_anything(tee, data, endorsements=found, at=NOW, roots=ROOTS, checks=CheckList())


def judged(document, report):
    (policy,) = document.policies.values()
    return appraise(policy, report, launch=None, at=NOW)


@pytest.mark.parametrize("tee", EVIDENCE)
def test_the_policy_that_is_made_from_it_accepts_it(tee):
    report = verified(tee)
    document = policy_from_report(report)
    assert judged(document, report).policy == "launcher"
    assert Weight.ERROR not in {each.weight for each in review(document, at=NOW)}


@pytest.mark.parametrize("tee", WEAKER)
def test_what_is_known_to_be_weak_or_not_known_to_be_good_is_refused(tee):
    document = policy_from_report(verified(tee))
    endorsements, field = WEAKER[tee]
    with pytest.raises(NotAcceptableError) as caught:
        judged(document, verified(tee, endorsements))
    assert field in {each.field for each in caught.value.mismatches}
