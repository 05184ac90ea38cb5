"""Which TEE this machine is: named, or found by looking; nothing that fails is passed over."""

import errno
from contextlib import contextmanager

import pytest
from tests.support.kernels import mounted, needs_fuse
from tests.support.tpms import needs_tpm

from casemate.errors import UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.tee.platform import AUTO, CHOICES, HARDWARE, Place, look, open_tee
from casemate.types import ReportData, sha384
from casemate_testkit.kernel_fuse import FuseError
from casemate_testkit.kernel_sgx import GramineFiles
from casemate_testkit.kernel_tsm import TsmFolder
from casemate_testkit.software_tpm import SoftwareTpm

REPORT_DATA = ReportData(bytes(64))
MEASUREMENT = sha384(b"code")


def place(**changes) -> Place:
    return Place(measure=lambda: MEASUREMENT, **changes)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine on which nothing is at its usual place; the folder where it would be."""
    monkeypatch.setattr("casemate.tee.tsm.REPORTS", tmp_path / "report")
    monkeypatch.setattr("casemate.tee.gramine.FOLDER", tmp_path / "attestation")
    monkeypatch.setattr("casemate.tee.occlum.DEVICE", str(tmp_path / "sgx"))
    monkeypatch.setattr("casemate.tee.nitro.DEVICE", str(tmp_path / "nsm"))
    monkeypatch.setattr("casemate.tee.tpm_link.DEVICES", (tmp_path / "tpmrm0", tmp_path / "tpm0"))
    monkeypatch.setattr("casemate.tee.nvidia.LIBRARY", "lib.none")
    return tmp_path


@contextmanager
def td(folder, **changes):
    kernel = TsmFolder("tdx_guest", lambda inblob, _: b"quote" + inblob, **changes)
    with mounted(kernel, folder / "report"):
        yield kernel


def test_a_bare_machine_says_what_was_looked_for(bare):
    with pytest.raises(UsageError) as caught:
        open_tee(AUTO, place())
    assert caught.value.code == "tee.none"
    assert caught.value.got.count("; ") == len(HARDWARE) - 1
    assert f"nitro: no {bare / 'nsm'}" in caught.value.got
    seen = look(place())
    assert [each.name for each in seen] == [*HARDWARE, "tpm", "nvidia"]
    assert not any(each.found for each in seen)
    assert {each.why for each in seen} >= {f"no {bare / 'report'}", "no lib.none"}


@needs_fuse
def test_what_is_there_is_found(bare):
    with td(bare):
        name, tee = open_tee(AUTO, place())
        assert name == "tdx"
        assert tee.attest(REPORT_DATA).tee is Tee.TDX
        (found,) = [each for each in look(place()) if each.found]
    assert found.name == "tdx"


class Failing(GramineFiles):
    """Gramine is there, and doesn't answer."""

    def read(self, path: str) -> bytes:
        raise FuseError(errno.EIO)


@needs_fuse
def test_what_is_there_and_fails_is_not_passed_over_for_another(bare):
    with (
        td(bare),
        mounted(Failing(lambda _: b""), bare / "attestation"),
        pytest.raises(UnavailableError) as caught,
    ):
        open_tee(AUTO, place())
    assert caught.value.code == "tee.failed"


@needs_tpm
def test_a_bare_tpm_is_never_taken_unless_it_is_named(bare, monkeypatch, tmp_path):
    (folder := tmp_path / "tpm").mkdir()
    with SoftwareTpm(folder) as tpm:
        monkeypatch.setattr("casemate.tee.tpm_link.DEVICES", (folder / "tpm.sock",))
        with pytest.raises(UsageError) as caught:
            open_tee(AUTO, place())
        assert caught.value.code == "tee.none"
        name, tee = open_tee("tpm", place(device=tpm.place))
        assert (name, tee.attest(REPORT_DATA).tee) == ("tpm", Tee.TPM)
        (seen,) = [each for each in look(place()) if each.name == "tpm"]
    assert seen.found
    assert "keeps nobody out" in seen.why


def test_the_simulated_tee_is_never_taken_unless_it_is_named(bare):
    root = bare / "root.pem"
    with pytest.raises(UsageError):
        open_tee(AUTO, place(development_root=root))
    assert not root.exists()
    name, tee = open_tee("simulated", place(development_root=root))
    assert (name, tee.attest(REPORT_DATA).tee) == ("simulated", Tee.SIMULATED)
    assert tee.extend(sha384(b"a contract")) is None


@pytest.mark.parametrize("name", [each for each in CHOICES if each not in {AUTO, "simulated"}])
def test_a_named_tee_that_is_not_there_is_absent(bare, name):
    for where in (place(), place(device=str(bare / "elsewhere"))):
        with pytest.raises(UsageError) as caught:
            open_tee(name, where)
        assert (caught.value.code, caught.value.expected) == ("tee.absent", name)


def test_a_place_without_a_name_and_a_name_that_is_none(bare):
    with pytest.raises(UsageError) as caught:
        open_tee(AUTO, place(device=str(bare)))
    assert caught.value.code == "tee.device"
    with pytest.raises(UsageError) as caught:
        open_tee("sev", place())
    assert caught.value.code == "tee.unknown"
