"""A TEE vouches only for what its own program made: nobody else gets evidence for theirs.

The attacker runs beside the program, where both may use the TEE's interface, or names a challenge.
"""

import pytest
from click.testing import CliRunner
from tests.support.kernels import mounted, needs_fuse, nothing_at_its_place, trust_domain

from casemate.cli.evidence import command
from casemate.errors import UnavailableError
from casemate.evidence import Tee
from casemate.project.obtaining import obtain
from casemate.protocol.binding import Claims, encode_claims, report_data_for
from casemate.tee.gramine import GramineEnclave
from casemate.tee.occlum import OcclumEnclave
from casemate.tee.platform import Place
from casemate.tee.tsm import TsmReports
from casemate.types import Nonce, ReportData, sha256, sha384
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.kernel_sgx import GramineFiles, OcclumDevice

OURS = ReportData(bytes(range(64)))
THEIRS = b"\x66" * 64
PLATFORM = DcapPlatform()


def quote(report_data: bytes) -> bytes:
    return PLATFORM.sgx_quote(report_data=report_data)


@needs_fuse
@pytest.mark.parametrize("written", [THEIRS, bytes(OURS)], ids=["theirs", "even ours"])
def test_a_report_into_which_somebody_else_wrote_is_never_used(tmp_path, written):
    with trust_domain(tmp_path) as kernel:
        kernel.interferes = lambda folder: kernel.write_inblob(folder, written)
        with pytest.raises(UnavailableError) as caught:
            TsmReports(Tee.TDX, reports=tmp_path / "report").attest(OURS)
    assert caught.value.code == "tee.conflict"
    assert (caught.value.expected, caught.value.got) == ("1", "2")
    assert kernel.made == 1 + 5  # it was tried again, and not for ever


@needs_fuse
def test_a_quote_that_another_in_the_enclave_had_made_is_not_used(tmp_path):
    with mounted(files := GramineFiles(quote), tmp_path / "attestation") as folder:
        tee = GramineEnclave(folder)
        files.interferes = lambda: files.write("user_report_data", THEIRS)
        with pytest.raises(UnavailableError) as caught:
            tee.attest(OURS)
    assert caught.value.code == "tee.conflict"


def test_a_quote_for_other_report_data_is_not_used():
    with pytest.raises(UnavailableError) as caught:
        OcclumEnclave(OcclumDevice(lambda _: quote(THEIRS))).attest(OURS)
    assert (caught.value.code, caught.value.field) == ("tee.unexpected", "report data")


def test_nobody_chooses_the_report_data_on_the_command_line():
    result = CliRunner().invoke(command, ["--tee", "simulated", "--report-data", THEIRS.hex()])
    assert result.exit_code == 2
    assert "No such option" in result.output


@needs_fuse
def test_a_challenge_that_is_the_digest_of_their_claims_does_not_vouch_for_them(
    tmp_path, monkeypatch
):
    """As report data it would certify their key; as a nonce it stands in claims of ours."""
    theirs = report_data_for(encode_claims(Claims(pubkey_hash=sha256(b"their key"))))
    nothing_at_its_place(monkeypatch, tmp_path)
    with trust_domain(tmp_path):
        place = Place(measure=lambda: sha384(b""))
        obtained = obtain("tdx", place, nonce=Nonce(theirs[:32]))
    assert obtained.evidence.data == b"quote" + obtained.report_data
    assert theirs[:32] not in obtained.evidence.data
