"""The host hides or breaks the real TEE: nothing weaker is taken in its place."""

import errno

import pytest
from tests.support.kernels import mounted, needs_fuse, nothing_at_its_place, trust_domain
from tests.support.tpms import needs_tpm

from casemate.errors import CasemateError, UnavailableError, UsageError
from casemate.evidence import Tee
from casemate.tee.platform import AUTO, Place, look, open_tee
from casemate.types import ReportData, sha384
from casemate_testkit.kernel_fuse import FuseError
from casemate_testkit.kernel_sgx import GramineFiles
from casemate_testkit.software_tpm import SoftwareTpm


def place(**changes) -> Place:
    return Place(measure=lambda: sha384(b"code"), **changes)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    return nothing_at_its_place(monkeypatch, tmp_path)


class Failing(GramineFiles):
    """Gramine is there, and doesn't answer."""

    def read(self, path: str) -> bytes:
        raise FuseError(errno.EIO)


@needs_fuse
def test_what_is_there_and_fails_is_not_passed_over_for_another(bare):
    with (
        trust_domain(bare),
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
        assert (name, tee.attest(ReportData(bytes(64))).tee) == ("tpm", Tee.TPM)
        (seen,) = [each for each in look(place()) if each.name == "tpm"]
    assert seen.found
    assert "keeps nobody out" in seen.why


def test_the_simulated_tee_is_never_taken_unless_it_is_named(bare):
    root = bare / "root.pem"
    with pytest.raises(CasemateError) as caught:
        open_tee(AUTO, place(development_root=root))
    assert caught.value.code == "tee.none"
    assert not root.exists()
    name, tee = open_tee("simulated", place(development_root=root))
    assert (name, tee.attest(ReportData(bytes(64))).tee) == ("simulated", Tee.SIMULATED)
    assert tee.extend(sha384(b"a contract")) is None
