"""The driver of configfs-tsm, against a stand-in that behaves as the kernel's own does."""

import errno
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.kernels import mounted, needs_fuse

from casemate.errors import MalformedError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.evidence.snp_certificates import ARK, ASK, CRL, VCEK
from casemate.tee.tsm import PROVIDERS, TsmReports, extend_rtmr3
from casemate.types import ReportData, sha384
from casemate.verify import Known, TrustAnchors, verify_evidence
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.kernel_tsm import Rtmr, TsmFolder, certificate_table
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.snp import SnpPlatform

pytestmark = needs_fuse
REPORT_DATA = ReportData(bytes(range(64)))
MACHINE = SnpPlatform()
DER = {
    guid: each.certificate.public_bytes(Encoding.DER)
    for guid, each in ((VCEK, MACHINE.vcek), (ASK, MACHINE.ask), (ARK, MACHINE.ark))
}


def echo(inblob: bytes, level: int) -> bytes:
    return b"report of " + inblob + bytes((level,))


def snp_report(inblob: bytes, level: int) -> bytes:
    return MACHINE.report(x050=inblob, x030=level.to_bytes(4, "little"))


@contextmanager
def guest(tmp_path: Path, provider: str | None = "tdx_guest", **changes):
    """A guest's folder of reports, and what stands behind it."""
    kernel = TsmFolder(provider, changes.pop("make_report", echo), **changes)
    with mounted(kernel, tmp_path / "report") as reports:
        yield kernel, reports
        assert not kernel.reports, "a report's folder is left behind"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_report_is_for_our_report_data_and_its_folder_is_gone(tmp_path, provider):
    with guest(tmp_path, provider, certificates=b"") as (kernel, reports):
        tee = PROVIDERS[provider]
        evidence = TsmReports(tee, reports=reports).attest(REPORT_DATA)
        assert evidence.tee is tee
        assert evidence.data == echo(REPORT_DATA, 0)
        assert evidence.endorsements == ()
        assert kernel.made == 2  # one to see the provider, one for the report


def test_snp_evidence_comes_with_the_hosts_certificates_and_is_genuine(tmp_path):
    empty = MACHINE.ark.revocation_list(start=NOW - DAY, end=NOW + DAY)
    table = certificate_table(
        (ARK, DER[ARK]), ("00" * 15 + "01", b"what is this"), (VCEK, DER[VCEK]), (ASK, DER[ASK]),
        (CRL, empty.public_bytes(Encoding.DER)),
    )  # fmt: skip
    with guest(tmp_path, "sev_guest", make_report=snp_report, certificates=table) as (_, reports):
        evidence = TsmReports(Tee.SNP, reports=reports, privilege_level=2).attest(REPORT_DATA)
    assert evidence.endorsements == (DER[VCEK], DER[ASK], DER[ARK])
    report = verify_evidence(
        evidence,
        anchors=TrustAnchors(
            vendors=VendorRoots(amd={"Milan": fingerprint(MACHINE.ark.certificate)})
        ),
        known=Known(at=NOW),
    )
    assert report.report_data == REPORT_DATA
    assert report.claims["vmpl"] == 2


def test_writing_the_privilege_level_moves_the_generation_and_is_no_conflict(tmp_path):
    with guest(tmp_path, "sev_guest", certificates=b"") as (_, reports):
        evidence = TsmReports(Tee.SNP, reports=reports, privilege_level=3).attest(REPORT_DATA)
    assert evidence.data == echo(REPORT_DATA, 3)


def test_a_guest_beneath_another_module_names_its_own_level(tmp_path):
    with guest(tmp_path, "sev_guest", certificates=b"", privilege_floor=2) as (_, reports):
        evidence = TsmReports(Tee.SNP, reports=reports).attest(REPORT_DATA)
    assert evidence.data == echo(REPORT_DATA, 2)


def test_a_privilege_level_below_the_kernels_floor_is_refused_by_it(tmp_path):
    with (
        guest(tmp_path, "sev_guest", certificates=b"", privilege_floor=2) as (_, reports),
        pytest.raises(UnavailableError) as caught,
    ):
        TsmReports(Tee.SNP, reports=reports, privilege_level=1).attest(REPORT_DATA)
    assert (caught.value.code, caught.value.got) == ("tee.failed", "EINVAL")


def test_a_report_into_which_somebody_else_wrote_is_made_again(tmp_path):
    with guest(tmp_path) as (kernel, reports):
        others = [b"not ours"]

        def interfere(folder: str) -> None:
            if others:
                kernel.write_inblob(folder, others.pop())

        kernel.interferes = interfere
        assert TsmReports(Tee.TDX, reports=reports).attest(REPORT_DATA).data == echo(REPORT_DATA, 0)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EWOULDBLOCK])
def test_a_busy_kernel_is_asked_again_and_not_for_ever(tmp_path, number):
    with guest(tmp_path, fails=[number] * 4) as (_, reports):
        assert TsmReports(Tee.TDX, reports=reports).attest(REPORT_DATA).data == echo(REPORT_DATA, 0)
    with guest(tmp_path, fails=[number] * 9) as (kernel, reports):
        with pytest.raises(UnavailableError) as caught:
            TsmReports(Tee.TDX, reports=reports).attest(REPORT_DATA)
        assert len(kernel.fails) == 4
    assert caught.value.code == "tee.busy"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ETIMEDOUT, "tee.timeout"), (errno.EIO, "tee.failed"), (errno.ENOTTY, "tee.failed")],
)
def test_other_failures_are_told_at_once(tmp_path, number, code):
    with guest(tmp_path, fails=[number]) as (_, reports), pytest.raises(UnavailableError) as caught:
        TsmReports(Tee.TDX, reports=reports).attest(REPORT_DATA)
    assert (caught.value.code, caught.value.got) == (code, errno.errorcode[number])


def test_a_report_that_the_kernel_can_not_hand_out_is_told(tmp_path):
    with (
        guest(tmp_path, make_report=lambda *_: bytes(40_000)) as (_, reports),
        pytest.raises(UnavailableError) as caught,
    ):
        TsmReports(Tee.TDX, reports=reports).attest(REPORT_DATA)
    assert caught.value.code == "tee.too-large"


def test_an_empty_report_is_none(tmp_path):
    with (
        guest(tmp_path, make_report=lambda *_: b"") as (_, reports),
        pytest.raises(UnavailableError) as caught,
    ):
        TsmReports(Tee.TDX, reports=reports).attest(REPORT_DATA)
    assert caught.value.code == "tee.unexpected"


def test_another_provider_than_asked_for_is_told_by_name(tmp_path):
    with guest(tmp_path, "sev_guest") as (_, reports), pytest.raises(UsageError) as caught:
        TsmReports(Tee.TDX, reports=reports)
    assert caught.value.code == "tee.absent"
    assert caught.value.got == "the kernel's provider of reports is sev_guest"


def test_a_machine_that_is_no_guest_says_so(tmp_path):
    with pytest.raises(UsageError) as caught:
        TsmReports(Tee.TDX, reports=tmp_path / "report")
    assert caught.value.got == f"no {tmp_path / 'report'}"
    with guest(tmp_path, None) as (_, reports), pytest.raises(UsageError) as caught:
        TsmReports(Tee.TDX, reports=reports)
    assert caught.value.got == "making a report's folder ended with ENXIO"


def test_a_privilege_level_that_does_not_exist(tmp_path):
    with pytest.raises(UsageError) as caught:
        TsmReports(Tee.SNP, reports=tmp_path, privilege_level=4)
    assert caught.value.code == "tee.privilege-level"


def test_many_at_once_get_each_their_own(tmp_path):
    got = {}
    with guest(tmp_path) as (_, reports):
        tee = TsmReports(Tee.TDX, reports=reports)

        def attest(number: int) -> None:
            got[number] = tee.attest(ReportData(bytes((number,)) * 64)).data

        threads = [threading.Thread(target=attest, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == {number: echo(bytes((number,)) * 64, 0) for number in range(8)}


def test_a_host_with_a_malformed_certificate_table_is_told(tmp_path):
    broken = certificate_table((VCEK, DER[VCEK]))[:-1]
    with (
        guest(tmp_path, "sev_guest", certificates=broken) as (_, reports),
        pytest.raises(MalformedError) as caught,
    ):
        TsmReports(Tee.SNP, reports=reports).attest(REPORT_DATA)
    assert caught.value.code == "snp.certificate-table"


def test_the_contracts_digest_goes_into_rtmr3(tmp_path):
    digest = sha384(b"a contract")
    with mounted(kernel := Rtmr(), tmp_path / "measurements") as folder:
        register = folder / "rtmr3:sha384"
        assert extend_rtmr3(digest, register) == "rtmr3"
        assert kernel.value == sha384(bytes(48) + digest)
        kernel.extends = False
        with pytest.raises(UnavailableError) as caught:
            extend_rtmr3(digest, register)
        assert caught.value.code == "tee.unexpected"
    with guest(tmp_path) as (_, reports):
        tdx = TsmReports(Tee.TDX, reports=reports, rtmr3=tmp_path / "none")
        assert tdx.extend(digest) is None  # a kernel before 6.16
    with guest(tmp_path, "sev_guest") as (_, reports):
        assert TsmReports(Tee.SNP, reports=reports).extend(digest) is None
