"""The driver of NVML, against a library of C functions with the layouts of ``nvml.h``."""

import ctypes

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.tee.nvidia import AttestationReport, GpuCertificate, NvidiaGpu
from casemate.types import ReportData
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.kernel_nvml import NvmlLibrary
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import NOW

REPORT_DATA = ReportData(bytes(range(32)) + bytes(32))
CHAIN = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def report(nonce: bytes) -> bytes:
    return b"\x11\xe0" + nonce


def test_the_structures_are_as_large_as_the_header_says():
    assert ctypes.sizeof(AttestationReport) == 4 * 3 + 0x20 + 0x2000 + 0x1000
    assert ctypes.sizeof(GpuCertificate) == 4 * 2 + 0x1000 + 0x1400


def test_the_report_is_for_our_nonce_and_comes_with_the_devices_chain():
    gpu = NvidiaGpu(library=NvmlLibrary(report, chain=CHAIN))
    evidence = gpu.attest(REPORT_DATA)
    assert evidence.tee is Tee.NVIDIA
    assert evidence.data == report(REPORT_DATA[:32])
    assert evidence.endorsements == (CHAIN,)
    assert gpu.count == 1


def test_what_a_gpu_says_is_genuine_down_to_its_maker():
    device = NvidiaDevice()
    chain = b"".join(each.public_bytes(Encoding.PEM) for each in device.chain)
    library = NvmlLibrary(lambda nonce: device.report(nonce=nonce), chain=chain)
    evidence = NvidiaGpu(library=library).attest(REPORT_DATA)
    files = [("chain", evidence.endorsements[0])]
    files += [(kind, device.rim(kind)) for kind in ("driver", "vbios")]
    report = verify_anything(
        Tee.NVIDIA, evidence.data, endorsements=sort_endorsements(files), at=NOW,
        roots=VendorRoots(
            nvidia_device=fingerprint(device.root.certificate),
            nvidia_rim=fingerprint(device.rim_root.certificate),
        ),
        checks=CheckList(),
    )  # fmt: skip
    assert report.report_data == REPORT_DATA


def test_report_data_that_a_gpu_would_cut_is_refused():
    with pytest.raises(UsageError) as caught:
        NvidiaGpu(library=NvmlLibrary(report)).attest(ReportData(bytes(range(64))))
    assert caught.value.code == "tee.report-data"


@pytest.mark.parametrize(
    ("changes", "index", "got"),
    [
        ({"starts": 9}, 0, "NVML can't start: the driver isn't loaded"),
        ({}, 1, "no GPU 1: an invalid argument"),
    ],
)
def test_a_machine_without_a_gpu_says_so(changes, index, got):
    with pytest.raises(UsageError) as caught:
        NvidiaGpu(index, NvmlLibrary(report, **changes))
    assert (caught.value.code, caught.value.got) == ("tee.absent", got)


def test_a_machine_without_the_library_says_so():
    with pytest.raises(UsageError) as caught:
        NvidiaGpu(library="libnvidia-ml.so.none")
    assert caught.value.got == "no libnvidia-ml.so.none"


@pytest.mark.parametrize(
    ("changes", "kind", "code"),
    [
        ({"status": 3}, UnavailableError, "tee.failed"),
        ({"status": 4}, UsageError, "tee.forbidden"),
        ({"size": 0}, UnavailableError, "tee.unexpected"),
        ({"size": 0x2001}, UnavailableError, "tee.unexpected"),
    ],
)
def test_a_gpu_that_gives_no_report_is_told(changes, kind, code):
    with pytest.raises(kind) as caught:
        NvidiaGpu(library=NvmlLibrary(report, **changes)).attest(REPORT_DATA)
    assert caught.value.code == code
