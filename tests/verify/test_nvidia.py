"""GPU reports of a device of our own: one fault a case."""

import pytest

from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.endorsements.ocsp import parse_ocsp_response
from casemate.endorsements.rim import parse_rim
from casemate.errors import CasemateError, MalformedError, NotGenuineError, UnavailableError
from casemate.verify.chain import fingerprint
from casemate.verify.nvidia import verify_nvidia
from casemate.verify.ocsp import check_ocsp
from casemate_testkit.nvidia import BLACKWELL_FWID, FWID, MEASUREMENTS, NvidiaDevice
from casemate_testkit.pki import DAY, NOW, make

GPU, OTHER = NvidiaDevice(), NvidiaDevice()
REPORT = GPU.report()
RIMS = (GPU.rim("driver"), GPU.rim("vbios"))


def verify(report=REPORT, *, gpu=GPU, chain=None, rims=RIMS, responses=(), **options):
    return verify_nvidia(
        report,
        chain=gpu.chain if chain is None else chain,
        rims=[parse_rim(each) for each in rims],
        ocsp_responses=[parse_ocsp_response(each) for each in responses],
        **{
            "at": NOW,
            "device_roots": {fingerprint(gpu.root.certificate)},
            "manifest_roots": {fingerprint(gpu.rim_root.certificate)},
            **options,
        },
    )


def refused(code, *arguments, **options):
    with pytest.raises(CasemateError) as caught:
        verify(*arguments, **options)
    assert caught.value.code == code
    return caught.value


def test_a_manifest_that_is_there_twice_is_one():
    assert verify(rims=(*RIMS, RIMS[0]))


def test_a_genuine_report():
    report = verify()
    assert report.report_data == b"\x11" * 32 + bytes(32)
    assert report.claims["nonce"] == b"\x11" * 32
    assert report.claims["architecture"] == "GH100"
    assert report.claims["driver_version"] == "550.90.07"
    assert report.claims["vbios_version"] == "96.00.9F.00.01"
    assert report.claims["measurements_compared"] == 5
    assert report.claims["fwid"] == FWID
    assert report.claims["revocation"] == "unknown"


def test_a_newer_architecture_names_its_firmware_elsewhere():
    gpu = NvidiaDevice(chip="GB100", fwid_oid=BLACKWELL_FWID)
    report = verify(gpu.report(), gpu=gpu, rims=(gpu.rim("driver"), gpu.rim("vbios")))
    assert report.claims["architecture"] == "GB100"


def test_a_decoder_that_runs_is_measured():
    decoder = {**MEASUREMENTS, 36: b"\x24" * 48}
    assert (
        verify(GPU.report(nvdec0=True, measurements=decoder)).claims["measurements_compared"] == 6
    )
    refused("nvidia.measurement", GPU.report(nvdec0=True))


def _rim_chain_without_root():
    return [GPU.rim_signer.certificate, GPU.rim_ca.certificate]


def test_a_manifests_root_may_come_by_itself():
    rims = [GPU.rim(kind, carried=_rim_chain_without_root()) for kind in ("driver", "vbios")]
    assert verify(rims=rims, rim_roots=[GPU.rim_root.certificate])
    refused("rim.root", rims=rims)


FAULTS = {
    "another device's key": ("nvidia.signature", lambda: {"report": GPU.report(signer=OTHER.leaf)}),
    "another device's chain": ("nvidia.root", lambda: {"chain": OTHER.chain}),
    "another device's leaf": (
        "nvidia.chain", lambda: {"chain": [OTHER.leaf.certificate, *GPU.chain[1:]]},
    ),
    "a root that isn't NVIDIA's": (
        "nvidia.root", lambda: {"device_roots": {fingerprint(OTHER.root.certificate)}},
    ),
    "a device whose certificate has ended": (
        "nvidia.expired", lambda: {"at": NOW + 400 * DAY},
    ),
    "other firmware": ("nvidia.fwid", lambda: {"report": GPU.report(fwid=bytes(48))}),
    "no firmware's name": ("nvidia.fwid", lambda: {"report": GPU.report(fwid=None)}),
    "an empty firmware's name": ("nvidia.fwid", lambda: {"report": GPU.report(fwid=b"")}),
    "the end of the firmware's name": ("nvidia.fwid", lambda: {"report": GPU.report(fwid=b"\x55")}),
    "a measurement that isn't golden": (
        "nvidia.measurement", lambda: {"report": GPU.report(measurements=MEASUREMENTS | {2: FWID})},
    ),
    "a measurement that is missing": (
        "nvidia.measurement", lambda: {
            "report": GPU.report(measurements={n: v for n, v in MEASUREMENTS.items() if n != 5})
        },
    ),
    "a manifest of another version": (
        "nvidia.no-rim", lambda: {"rims": (GPU.rim("driver", version="1"), RIMS[1])},
    ),
    "no manifest": ("nvidia.no-rim", lambda: {"rims": ()}),
    "two manifests of a version": (
        "nvidia.no-rim",
        lambda: {"rims": (*RIMS, GPU.rim("driver", golden={1: (b"\x01" * 48,)}))},
    ),
    "a manifest that another key signed": (
        "rim.signature", lambda: {"rims": (GPU.rim("driver", signer=OTHER.rim_signer), RIMS[1])},
    ),
    "a manifest under another root": (
        "rim.root", lambda: {"rims": (OTHER.rim("driver"), RIMS[1])},
    ),
    "a manifest whose signer no authority knows": (
        "rim.chain", lambda: {"rims": (GPU.rim(
            "driver", signer=OTHER.rim_signer,
            carried=[OTHER.rim_signer.certificate, *_rim_chain_without_root()[1:],
                     GPU.rim_root.certificate],
        ), RIMS[1])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_report_with_one_fault(fault):
    code, options = FAULTS[fault]
    error = refused(code, **options())
    assert isinstance(error, UnavailableError if code == "nvidia.no-rim" else NotGenuineError)


def test_a_manifest_that_was_changed():
    changed = RIMS[0].replace(b'colloquialVersion="550.90.07"', b'colloquialVersion="550.90.08"')
    assert changed != RIMS[0]
    with pytest.raises(NotGenuineError) as caught:
        parse_rim(changed)
    assert caught.value.code == "rim.digest"


def test_responses_that_clear_every_certificate():
    report = verify(responses=GPU.ocsp_responses())
    assert report.claims["revocation"] == "checked"
    assert report.checks[-1].name == "nvidia.revocation"


ISSUED = ("device", "provisioner", "identity", "rim_signer", "rim_ca")


@pytest.mark.parametrize("which", ISSUED)
@pytest.mark.parametrize(
    ("fault", "suffix", "kind"),
    [
        ("revoked", "revoked", NotGenuineError),
        ("unknown", "ocsp-unknown", UnavailableError),
        ("left_out", "no-ocsp", UnavailableError),
    ],
)
def test_a_certificate_that_is_not_good(which, fault, suffix, kind):
    certificate = getattr(GPU, which).certificate
    responses = GPU.ocsp_responses(**{fault: certificate})
    whose = "rim" if which.startswith("rim") else "nvidia"
    assert isinstance(refused(f"{whose}.{suffix}", responses=responses), kind)


def test_one_that_says_revoked_is_enough():
    responses = GPU.ocsp_responses() + GPU.ocsp_responses(revoked=GPU.device.certificate)
    refused("nvidia.revoked", responses=responses)


@pytest.mark.parametrize(
    "span",
    [
        {"start": NOW - 3 * DAY, "end": NOW - DAY},
        {"start": NOW + DAY, "end": NOW + 2 * DAY},
        {"start": NOW - DAY, "end": None},
    ],
    ids=["outdated", "of the future", "a day old, without an end"],
)
def test_a_response_that_is_not_current_tells_nothing(span):
    error = refused("nvidia.no-ocsp", responses=GPU.ocsp_responses(**span))
    assert isinstance(error, UnavailableError)


def test_a_response_without_an_end_counts_for_a_day():
    responses = GPU.ocsp_responses(start=NOW - DAY / 2, end=None)
    assert verify(responses=responses).claims["revocation"] == "checked"


RESPONDERS = {
    "of another issuer of that name": lambda: make("NVIDIA GH100 Provisioner ICA 1").responder(),
    "not made for it": lambda: GPU.provisioner.responder(usages=()),
    "whose time has ended": lambda: GPU.provisioner.responder(end=NOW - DAY),
    "of an issuer below": lambda: GPU.device.responder(),
}


@pytest.mark.parametrize("which", RESPONDERS)
def test_a_responder_that_may_not_speak(which):
    responder = RESPONDERS[which]()
    response = GPU.provisioner.ocsp_response(GPU.device.certificate, responder=responder)
    code = "nvidia.expired" if "ended" in which else "nvidia.ocsp-signature"
    refused(code, responses=[response])


def of_the_device(response, **options):
    check_ocsp(
        GPU.device.certificate, GPU.chain[2:], [parse_ocsp_response(response)],
        at=NOW, what="it", **options,
    )  # fmt: skip


def test_the_issuer_itself_and_who_stands_above_it_may_speak():
    of_the_device(GPU.provisioner.ocsp_response(GPU.device.certificate))
    above = GPU.root.responder()
    of_the_device(GPU.provisioner.ocsp_response(GPU.device.certificate, responder=above))


def test_a_response_about_another_issuers_certificate_of_that_number():
    response = GPU.identity.ocsp_response(GPU.device.certificate)
    with pytest.raises(UnavailableError):
        of_the_device(response)


def test_a_response_to_another_request():
    response = GPU.provisioner.ocsp_response(GPU.device.certificate, nonce=b"1" * 32)
    of_the_device(response, nonce=b"1" * 32)
    with pytest.raises(NotGenuineError) as caught:
        of_the_device(response, nonce=b"2" * 32)
    assert caught.value.code == "it.ocsp-nonce"


def test_a_response_with_any_signed_bit_flipped():
    genuine = GPU.provisioner.ocsp_response(GPU.device.certificate)
    signed = parse_ocsp_response(genuine).signed
    start = genuine.index(signed)
    of_the_device(genuine)
    for bit in range(len(signed) * 8):
        changed = bytearray(genuine)
        changed[start + bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(CasemateError):
            of_the_device(bytes(changed))
            pytest.fail(f"bit {bit} isn't covered")


def test_responses_are_sorted_out_of_files():
    responses = GPU.ocsp_responses()
    found = sort_endorsements([(str(n), each) for n, each in enumerate(responses)])
    assert [each.data for each in found.ocsp_responses] == responses
    assert found == Endorsements(ocsp_responses=found.ocsp_responses)


def test_a_response_that_refuses_holds_nothing():
    with pytest.raises(MalformedError) as caught:
        sort_endorsements([("it", bytes.fromhex("30030a0106"))])  # unauthorized
    assert (caught.value.code, caught.value.got) == ("endorsements.ocsp", "unauthorized")


def test_the_age_of_what_is_known_of_revocation_is_a_claim():
    responses = GPU.ocsp_responses(start=NOW - 5 * DAY)
    assert verify(responses=responses).claims["revocation_age_days"] == 5
    assert "revocation_age_days" not in verify().claims
