"""Collateral in files: loose ones, and what was named on a command line."""

import pytest

from casemate.collateral.cache import CollateralCache
from casemate.collateral.gather import collect
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import UsageError
from casemate.evidence import Tee
from casemate.project.collateral import fetch_for, load_given, write_loose
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import DAY, NOW, pem
from casemate_testkit.services.kds import FakeKds
from casemate_testkit.services.pccs import FakePccs
from casemate_testkit.services.rim import FakeOcsp, FakeRim
from casemate_testkit.snp import SnpPlatform

INTEL, AMD, GPU = DcapPlatform(), SnpPlatform(), NvidiaDevice()
ROOTS = VendorRoots(
    intel=INTEL.root_der,
    amd={"Milan": fingerprint(AMD.ark.certificate)},
    nvidia_device=fingerprint(GPU.root.certificate),
    nvidia_rim=fingerprint(GPU.rim_root.certificate),
)
RIMS = {
    "NV_GPU_DRIVER_GH100_550.90.07": GPU.rim("driver"),
    "NV_GPU_VBIOS_1010_0200_882_96009F0001": GPU.rim("vbios"),
}
NOTHING = Endorsements()
CHAIN = sort_endorsements([("chain", pem(*GPU.chain))])


@pytest.fixture
def parts_of(tmp_path):
    """The parts that evidence needs, from services of ours."""
    with (
        FakePccs(INTEL) as pccs, FakeKds(AMD) as kds, FakeRim(RIMS) as rim,
        FakeOcsp(GPU.ocsp_responses()) as ocsp,
    ):  # fmt: skip
        cache = CollateralCache(
            tmp_path / "cache", web=Web(), roots=ROOTS, clock=lambda: NOW,
            services=Services(pccs=pccs.url, kds=kds.url, rim=rim.url, ocsp=ocsp.url),
        )  # fmt: skip

        def parts(kind, data):
            given = CHAIN if kind is Tee.NVIDIA else Endorsements()
            return collect(kind, data, given=given, source=cache)

        yield parts


@pytest.mark.parametrize(
    ("kind", "data", "files"),
    [
        (Tee.TDX, INTEL.td_quote(), {"dcap.json"}),
        (Tee.SNP, AMD.report(), {"certificates.pem", "revocation-lists.pem"}),
        (Tee.NVIDIA, GPU.report(), {f"{name}.xml" for name in RIMS}),
    ],
    ids=["tdx", "snp", "nvidia"],
)
def test_loose_files_verify_what_they_were_fetched_for(parts_of, tmp_path, kind, data, files):
    written = write_loose(parts_of(kind, data), tmp_path / "loose")
    assert {path.name for path in written if path.suffix != ".ocsp"} == files
    if kind is Tee.NVIDIA:
        (tmp_path / "loose" / "chain.pem").write_bytes(pem(*GPU.chain))
        written.append(tmp_path / "loose" / "chain.pem")
    given = load_given(written, bundle_keys=(), at=NOW).endorsements
    report = verify_anything(
        kind, data, endorsements=given, at=NOW, roots=ROOTS, checks=CheckList()
    )
    assert report.claims.get("revocation") in (None, "checked", "good")


def test_without_evidence_what_has_ended_is_fetched_again(tmp_path):
    clock = [NOW]
    with FakePccs(INTEL) as pccs:
        cache = CollateralCache(
            tmp_path / "cache", web=Web(), roots=ROOTS, clock=lambda: clock[0],
            services=Services(pccs=pccs.url),
        )  # fmt: skip
        first = fetch_for([_file(tmp_path, INTEL.td_quote())], tee=None, given=NOTHING, cache=cache)
        assert all(part.fetched for part in first.parts)
        clock[0] = later = NOW + 40 * DAY
        assert cache.parts() == ()
        pccs.tcb = Tcb(start=later - DAY, end=later + 29 * DAY)
        pccs.lists_start, pccs.lists_end = later - DAY, later + 20 * DAY
        again = fetch_for([], tee=None, given=NOTHING, cache=cache)
        assert {part.wanted.name for part in again.parts} == {
            part.wanted.name for part in first.parts
        }
        assert all(part.fetched for part in again.parts)


def _file(folder, content):
    (folder / "evidence.bin").write_bytes(content)
    return folder / "evidence.bin"


def test_parts_of_several_platforms_go_into_no_file(parts_of, tmp_path):
    parts = (*parts_of(Tee.TDX, INTEL.td_quote()), *parts_of(Tee.SGX, INTEL.sgx_quote()))
    with pytest.raises(UsageError) as caught:
        write_loose(parts, tmp_path / "loose")
    assert caught.value.code == "collateral.loose"
    assert not (tmp_path / "loose").exists()
