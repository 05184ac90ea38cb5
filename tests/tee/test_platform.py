"""Which TEE this machine is: named, or found by looking; nothing that fails is passed over."""

import pytest
from tests.support.kernels import mounted, needs_fuse, nothing_at_its_place, trust_domain
from tests.support.tpms import needs_tpm

from casemate.errors import UsageError
from casemate.evidence import Tee
from casemate.evidence.composite import parse_composite_evidence
from casemate.tee.platform import AUTO, CHOICES, HARDWARE, Place, look, open_tee
from casemate.types import ReportData, sha384
from casemate_testkit.azure_guest import furnish
from casemate_testkit.dcap import DcapPlatform
from casemate_testkit.kernel_nvml import NvmlLibrary
from casemate_testkit.kernel_sgx import GramineFiles
from casemate_testkit.software_tpm import SoftwareTpm

REPORT_DATA = ReportData(bytes(64))
MEASUREMENT = sha384(b"code")


def place(**changes) -> Place:
    return Place(measure=lambda: MEASUREMENT, **changes)


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine on which nothing is at its usual place; the folder where it would be."""
    return nothing_at_its_place(monkeypatch, tmp_path)


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
    with trust_domain(bare):
        name, tee = open_tee(AUTO, place())
        assert name == "tdx"
        assert tee.attest(REPORT_DATA).tee is Tee.TDX
        (found,) = [each for each in look(place()) if each.found]
    assert found.name == "tdx"


@pytest.mark.parametrize("name", [each for each in CHOICES if each not in {AUTO, "simulated"}])
def test_a_named_tee_that_is_not_there_is_absent(bare, name):
    for where in (place(), place(device=str(bare / "elsewhere"))):
        with pytest.raises(UsageError) as caught:
            open_tee(name, where)
        assert (caught.value.code, caught.value.expected) == ("tee.absent", name)


@needs_fuse
def test_a_name_of_evidence_finds_the_interface(bare):
    quote = DcapPlatform().sgx_quote
    files = GramineFiles(lambda bound: quote(report_data=bound))
    with mounted(files, bare / "attestation") as folder:
        for where in (place(), place(device=str(folder))):
            assert open_tee("sgx", where)[1].attest(REPORT_DATA).tee is Tee.SGX


@needs_tpm
def test_azures_names_are_of_its_hardware(bare, tmp_path):
    (folder := tmp_path / "tpm").mkdir()
    with SoftwareTpm(folder) as tpm:
        furnish(tpm, lambda bound: bytes(128) + bound, kind="tdx")
        with pytest.raises(UsageError) as caught:
            open_tee("azure-snp", place(device=tpm.place))
    assert (caught.value.code, caught.value.got) == (
        "tee.absent", "the paravisor's hardware is azure-tdx",
    )  # fmt: skip


def test_a_place_without_a_name_and_a_name_that_is_none(bare):
    with pytest.raises(UsageError) as caught:
        open_tee(AUTO, place(device=str(bare)))
    assert caught.value.code == "tee.device"
    with pytest.raises(UsageError) as caught:
        open_tee("sev", place())
    assert caught.value.code == "tee.unknown"


@needs_fuse
def test_gpus_are_attested_along_for_the_same_occasion(bare, monkeypatch):
    with trust_domain(bare):
        with pytest.raises(UsageError) as caught:  # asked for, and there are none
            open_tee("tdx", place(gpus=True))
        assert caught.value.got == "no lib.none"
        library = NvmlLibrary(lambda nonce: b"report for " + nonce, chain=b"chain")
        monkeypatch.setattr("casemate.tee.nvidia.LIBRARY", library)
        _, tee = open_tee("tdx", place(gpus=True))
        bound = ReportData(bytes(range(32)) + bytes(32))
        evidence = tee.attest(bound)
        assert tee.extend(sha384(b"a contract")) is None
    cpu, gpu = parse_composite_evidence(evidence.data)
    assert (cpu.tee, cpu.data) == (Tee.TDX, b"quote" + bound)
    assert (gpu.tee, gpu.data) == (Tee.NVIDIA, b"report for " + bound[:32])
    assert gpu.endorsements == (b"chain",)
