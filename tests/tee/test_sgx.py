"""The drivers of Gramine and Occlum, against stand-ins that quote for what they were handed."""

import errno
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.kernels import mounted, needs_fuse

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import MalformedError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.tee.device import DeviceFile
from casemate.tee.gramine import GramineEnclave
from casemate.tee.occlum import OcclumEnclave
from casemate.types import ReportData, sha384
from casemate.verify import Known, TrustAnchors, verify_evidence
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.kernel_sgx import GramineFiles, OcclumDevice
from casemate_testkit.pki import NOW

REPORT_DATA = ReportData(bytes(range(64)))
PLATFORM = DcapPlatform()


def quote(report_data: bytes) -> bytes:
    return PLATFORM.sgx_quote(report_data=report_data)


def require_genuine(evidence):
    """As a broker would see it."""
    assert evidence.tee is Tee.SGX
    assert evidence.endorsements == ()
    report = verify_evidence(
        evidence,
        anchors=TrustAnchors(vendors=VendorRoots(intel=PLATFORM.root_der)),
        known=Known(
            at=NOW, endorsements=sort_endorsements([("collateral", PLATFORM.collateral())])
        ),
    )
    assert report.report_data == REPORT_DATA


@contextmanager
def gramine(tmp_path: Path, **changes):
    files = GramineFiles(changes.pop("make_quote", quote), **changes)
    with mounted(files, tmp_path / "attestation") as folder:
        yield files, folder


@needs_fuse
def test_gramines_quote_is_for_our_report_data_and_genuine(tmp_path):
    with gramine(tmp_path) as (_, folder):
        tee = GramineEnclave(folder)
        require_genuine(tee.attest(REPORT_DATA))
    assert tee.extend(sha384(b"a contract")) is None


@needs_fuse
def test_threads_of_ours_take_turns(tmp_path):
    got = {}
    with gramine(tmp_path) as (_, folder):
        tee = GramineEnclave(folder)

        def attest(number: int) -> None:
            got[number] = tee.attest(ReportData(bytes((number,)) * 64))

        threads = [threading.Thread(target=attest, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(got) == 6


@needs_fuse
@pytest.mark.parametrize("kind", ["none", "epid"])
def test_gramine_without_dcap_is_none(tmp_path, kind):
    with gramine(tmp_path, kind=kind) as (_, folder), pytest.raises(UsageError) as caught:
        GramineEnclave(folder)
    assert caught.value.code == "tee.absent"
    assert kind in caught.value.got


@needs_fuse
@pytest.mark.parametrize("data", [b"", b"no quote"])
def test_what_is_no_quote_is_told(tmp_path, data):
    with gramine(tmp_path, make_quote=lambda _: data) as (_, folder):
        tee = GramineEnclave(folder)
        with pytest.raises((UnavailableError, MalformedError)) as caught:
            tee.attest(REPORT_DATA)
    assert caught.value.code in {"tee.unexpected", "encoding.truncated", "quote.malformed"}


def test_a_machine_without_gramine_says_so(tmp_path):
    with pytest.raises(UsageError) as caught:
        GramineEnclave(tmp_path / "attestation")
    assert caught.value.got == f"no {tmp_path / 'attestation'}"


def test_occlums_quote_is_for_our_report_data_and_genuine():
    device = OcclumDevice(quote)
    tee = OcclumEnclave(device)
    require_genuine(tee.attest(REPORT_DATA))
    assert tee.extend(sha384(b"a contract")) is None
    assert [number for number, _ in device.requests] == [0x80047306, 0x80047307, 0xC0187308]
    assert [len(structure) for _, structure in device.requests] == [4, 4, 24]


def test_occlum_without_dcap_is_none():
    with pytest.raises(UsageError) as caught:
        OcclumEnclave(OcclumDevice(quote, dcap=0))
    assert caught.value.code == "tee.absent"


def test_the_node_of_a_bare_sgx_driver_is_not_occlums():
    class Driver:
        def ioctl(self, request: int, argument: bytearray) -> None:
            raise OSError(errno.ENOTTY, "no such request")

    with pytest.raises(UsageError) as caught:
        OcclumEnclave(Driver())
    assert caught.value.code == "tee.absent"


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_a_quote_size_that_can_not_be_is_told(room):
    with pytest.raises(UnavailableError) as caught:
        OcclumEnclave(OcclumDevice(quote, room=room)).attest(REPORT_DATA)
    assert caught.value.code == "tee.unexpected"


def test_occlums_failure_is_told():
    with pytest.raises(UnavailableError) as caught:
        OcclumEnclave(OcclumDevice(quote, fails=errno.EIO)).attest(REPORT_DATA)
    assert (caught.value.code, caught.value.got) == ("tee.failed", "EIO")


def test_a_node_that_is_not_there_or_no_device_is_told(tmp_path):
    with pytest.raises(UsageError) as caught:
        DeviceFile("sgx-occlum", tmp_path / "sgx")
    assert caught.value.got == f"no {tmp_path / 'sgx'}"
    (tmp_path / "sgx").mkdir()  # as the driver of bare machines has it
    with pytest.raises(UsageError) as caught:
        DeviceFile("sgx-occlum", tmp_path / "sgx")
    assert caught.value.got == f"{tmp_path / 'sgx'} is a folder, not a device"


def test_a_real_node_gets_the_request():
    with pytest.raises(OSError) as caught:  # not told apart here: the driver does that
        DeviceFile("sgx-occlum", Path("/dev/null")).ioctl(0x80047306, bytearray(4))
    assert caught.value.errno == errno.ENOTTY
