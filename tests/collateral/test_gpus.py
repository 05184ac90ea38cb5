"""What a GPU's report is verified with: manifests, and what the responder says of every signer."""

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from casemate.collateral.cache import CollateralCache
from casemate.collateral.gather import gather, needs
from casemate.collateral.nvidia import NvidiaRim, NvidiaStatus
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import DAY, NOW, pem
from casemate_testkit.services.rim import FakeOcsp, FakeRim
from casemate_testkit.services.web import Fault

GPU, OTHER = NvidiaDevice(), NvidiaDevice()
ROOTS = VendorRoots(
    nvidia_device=fingerprint(GPU.root.certificate),
    nvidia_rim=fingerprint(GPU.rim_root.certificate),
)
CHAIN = sort_endorsements([("chain", pem(*GPU.chain))])
DRIVER = NvidiaRim("NV_GPU_DRIVER_GH100_550.90.07")
VBIOS = NvidiaRim("NV_GPU_VBIOS_1010_0200_882_96009F0001")
RIMS = {DRIVER.id: GPU.rim("driver"), VBIOS.id: GPU.rim("vbios")}
DEVICE = NvidiaStatus(tuple(GPU.chain[1:]))


@pytest.fixture
def services():
    with FakeRim(RIMS) as rim, FakeOcsp(GPU.ocsp_responses()) as ocsp:
        yield rim, ocsp


@pytest.fixture
def cache(tmp_path, services):
    rim, ocsp = services
    return CollateralCache(
        tmp_path, web=Web(seconds=1, patience=1, attempts=1), roots=ROOTS, clock=lambda: NOW,
        services=Services(rim=rim.url, ocsp=ocsp.url),
    )  # fmt: skip


def verified(cache):
    gathered = gather(Tee.NVIDIA, GPU.report(), given=CHAIN, source=cache)
    return verify_anything(
        Tee.NVIDIA, GPU.report(), endorsements=gathered, at=NOW, roots=ROOTS, checks=CheckList()
    )


def refusal(cache, wanted):
    with pytest.raises(UnavailableError) as caught:
        cache.get(wanted)
    return caught.value


def test_manifests_and_every_signers_status_are_gathered(cache, services):
    assert verified(cache).claims["revocation"] == "checked"
    rim, ocsp = services
    assert len(rim.seen) == 2
    assert len(ocsp.seen) == 5  # three of the device, two of the manifests' signers
    assert verified(cache)
    assert len(ocsp.seen) == 5


def test_what_is_stored_says_what_it_is(cache):
    verified(cache)
    assert {each.state for each in cache.entries()} == {"good"}
    assert len(cache.parts()) == 7


def test_a_revoked_device_is_not_genuine(cache, services):
    services[1].responses = tuple(GPU.ocsp_responses(revoked=GPU.device.certificate))
    with pytest.raises(NotGenuineError) as caught:
        verified(cache)
    assert caught.value.code == "nvidia.revoked"


def test_a_revoked_signer_of_manifests_is_not_genuine(cache, services):
    services[1].responses = tuple(GPU.ocsp_responses(revoked=GPU.rim_signer.certificate))
    with pytest.raises(NotGenuineError) as caught:
        verified(cache)
    assert caught.value.code == "rim.revoked"


def test_a_responder_that_doesnt_answer_leaves_it_undecided(cache, services):
    services[1].fault = Fault.OUTAGE
    with pytest.raises(UnavailableError) as caught:
        verified(cache)
    assert caught.value.code == "collateral.unreachable"


def test_whose_gpu_it_is_must_be_known():
    with pytest.raises(UnavailableError) as caught:
        needs(Tee.NVIDIA, GPU.report(), Endorsements())
    assert caught.value.code == "collateral.product"


STRANGER = OTHER.provisioner.responder()
LIES = {
    "somebody else's signature": (
        GPU.ocsp_responses(responder=STRANGER), "collateral.ocsp-signature"
    ),
    "a signer that may not": (
        GPU.ocsp_responses(responder=GPU.provisioner.responder(
            usages=(ExtendedKeyUsageOID.SERVER_AUTH,))),
        "collateral.ocsp-signature",
    ),
    "an answer that has ended": (
        GPU.ocsp_responses(start=NOW - 9 * DAY, end=NOW - DAY), "collateral.no-ocsp"
    ),
    "an answer of tomorrow": (
        GPU.ocsp_responses(start=NOW + DAY, end=NOW + 2 * DAY), "collateral.no-ocsp"
    ),
    "an old answer without an end": (
        GPU.ocsp_responses(start=NOW - 2 * DAY, end=None), "collateral.no-ocsp"
    ),
    "it doesn't know": (
        GPU.ocsp_responses(unknown=GPU.device.certificate), "collateral.ocsp-unknown"
    ),
    "no answer": ([], "collateral.form"),
}  # fmt: skip


@pytest.mark.parametrize(("responses", "code"), LIES.values(), ids=LIES)
def test_a_lying_responder_is_never_believed(cache, services, responses, code):
    services[1].responses = tuple(responses)
    error = refusal(cache, DEVICE)
    assert error.code == code
    assert services[1].url.removeprefix("http://") in error.message
    assert cache.entries() == ()


def test_an_answer_about_another_certificate_is_none(cache, services):
    services[1].confused = True
    services[1].responses = services[1].responses[1:]
    assert refusal(cache, DEVICE).code == "collateral.no-ocsp"


@pytest.mark.parametrize(
    ("manifest", "code"),
    [
        (GPU.rim("vbios"), "collateral.another"),
        (GPU.rim("driver", version="550.54.15"), "collateral.another"),
        (NvidiaDevice(chip="GB100").rim("driver"), "collateral.root"),
        (OTHER.rim("driver"), "collateral.root"),
        (GPU.rim("driver", signer=OTHER.rim_signer), "collateral.signature"),
        (GPU.rim("driver").replace(b'index="0"', b'index="8"'), "collateral.form"),
        (b"<!DOCTYPE x [<!ENTITY e 'e'>]><x>&e;</x>", "collateral.form"),
    ],
    ids=["vbios", "version", "chip", "root", "signer", "changed", "entity"],
)
def test_a_lying_rim_service_is_never_believed(cache, services, manifest, code):
    services[0].manifests = {DRIVER.id: manifest}
    error = refusal(cache, DRIVER)
    assert error.code == code
    assert cache.entries() == ()
