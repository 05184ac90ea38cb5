"""From evidence to what it is verified with."""

import datetime
import json

import pytest
from tests.support.published import content, needs_published

from casemate.collateral.cache import CollateralCache
from casemate.collateral.gather import assemble, gather, needs
from casemate.collateral.names import wanted_of
from casemate.collateral.nvidia import NvidiaRim
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import MalformedError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.detect import RATLS
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.pki import NOW, der
from casemate_testkit.services.kds import FakeKds
from casemate_testkit.services.pccs import FakePccs
from casemate_testkit.services.rim import FakeRim
from casemate_testkit.services.web import FakeService, Reply
from casemate_testkit.snp import SnpPlatform

INTEL, AMD = DcapPlatform(), SnpPlatform()
ROOTS = VendorRoots(intel=INTEL.root_der, amd={"Milan": fingerprint(AMD.ark.certificate)})
NOTHING = Endorsements()
QUICK = Web(seconds=2, patience=2, attempts=1)


@pytest.fixture
def services():
    with FakePccs(INTEL) as pccs, FakeKds(AMD) as kds:
        yield pccs, kds


@pytest.fixture
def cache(tmp_path, services):
    pccs, kds = services
    return CollateralCache(
        tmp_path, web=QUICK, services=Services(pccs=pccs.url, kds=kds.url), roots=ROOTS,
        clock=lambda: NOW,
    )  # fmt: skip


def verified(kind, data, endorsements, at=NOW, roots=ROOTS):
    return verify_anything(
        kind, data, endorsements=endorsements, at=at, roots=roots, checks=CheckList()
    )


@pytest.mark.parametrize(
    ("kind", "data"),
    [(Tee.SGX, INTEL.sgx_quote()), (Tee.TDX, INTEL.td_quote()), (Tee.SNP, AMD.report())],
)
def test_what_is_gathered_verifies_the_evidence(cache, services, kind, data):
    gathered = gather(kind, data, given=NOTHING, source=cache)
    claims = verified(kind, data, gathered).claims
    assert claims.get("tcb_status", "UpToDate") == "UpToDate"
    assert claims.get("revocation", "checked") == "checked"


def test_a_tcb_status_comes_through(cache, services):
    services[0].tcb = Tcb(levels=(
        *Tcb().levels[:0],
        type(Tcb().levels[0])(svn=6), type(Tcb().levels[0])(svn=5, status="OutOfDate"),
    ))  # fmt: skip
    quote = INTEL.sgx_quote()
    report = verified(Tee.SGX, quote, gather(Tee.SGX, quote, given=NOTHING, source=cache))
    assert report.claims["tcb_status"] == "OutOfDate"


def test_what_is_given_isnt_asked_for(cache):
    given = sort_endorsements([("collateral", INTEL.collateral())])
    assert needs(Tee.SGX, INTEL.sgx_quote(), given) == ()
    given = sort_endorsements((str(n), der(each)) for n, each in enumerate(AMD.certificates))
    assert [each.name for each in needs(Tee.SNP, AMD.report(), given)] == ["amd/crl/Milan/vcek"]
    leaf = sort_endorsements([("leaf", der(AMD.vcek.certificate))])
    assert [each.name for each in needs(Tee.SNP, AMD.report(), leaf)] == [
        "amd/chain/Milan/vcek", "amd/crl/Milan/vcek",
    ]  # fmt: skip
    gathered = gather(Tee.SNP, AMD.report(), given=leaf, source=cache)
    assert verified(Tee.SNP, AMD.report(), gathered)


def test_a_leaf_of_another_tcb_doesnt_spare_the_question():
    other = SnpPlatform(tcb=(3, 0, 24, 219))
    given = sort_endorsements([("leaf", der(other.vcek.certificate))])
    assert needs(Tee.SNP, AMD.report(), given)[0].name.startswith("amd/vcek/Milan/")


def test_a_providers_key_isnt_asked_for(tmp_path):
    machine = SnpPlatform(vlek=True)
    roots = VendorRoots(amd={"Milan": fingerprint(machine.ark.certificate)})
    given = sort_endorsements([("leaf", der(machine.vcek.certificate))])
    with FakeKds(machine) as kds:
        cache = CollateralCache(
            tmp_path, web=QUICK, services=Services(kds=kds.url), roots=roots, clock=lambda: NOW
        )
        gathered = gather(Tee.SNP, machine.report(), given=given, source=cache)
    assert all(question.startswith("GET /vlek/v1/Milan/") for question in kds.seen)
    assert verified(Tee.SNP, machine.report(), gathered, roots=roots)


def test_a_chip_of_turin_is_named_by_eight_bytes():
    report = AMD.report(x188=b"\x1a\x02\x01", x1a0=bytes(range(8)) + bytes(56),
                        x180=bytes((1, 2, 3, 4, 0, 0, 0, 5)))  # fmt: skip
    name = needs(Tee.SNP, report, NOTHING)[0].name
    assert name == "amd/vcek/Turin/0001020304050607/1.2.3.4.5"
    assert wanted_of(name, {}).name == name


def test_a_masked_chip_cant_be_asked_for():
    with pytest.raises(UnavailableError) as caught:
        needs(Tee.SNP, AMD.report(x1a0=bytes(64)), NOTHING)
    assert caught.value.code == "collateral.chip"


def test_a_report_that_doesnt_name_its_processor():
    report = AMD.report(x000=(2).to_bytes(4, "little"), x188=bytes(3))
    with pytest.raises(UnavailableError) as caught:
        needs(Tee.SNP, report, NOTHING)
    assert caught.value.code == "collateral.product"


@pytest.mark.parametrize("kind", [Tee.NITRO, Tee.TPM, Tee.CCA, Tee.SIMULATED])
def test_some_evidence_needs_nothing(kind):
    assert needs(kind, b"", NOTHING) == ()


@pytest.mark.parametrize(
    "name",
    ["", "intel", "intel/sgx/tcb/00906ED50000", "intel/sgx/tcb/../../x", "intel/root-crl/",
     "amd/vcek/Milan/00/1.2.3.4", "amd/crl/Rome/vcek", "nvidia/rim/NV_GPU_DRIVER_../x",
     "intel/root-crl\n", "amd/vcek/Turin/0001020304050607/01.2.3.4.5", "x" * 1000],
)  # fmt: skip
def test_a_name_of_nothing(name):
    with pytest.raises(MalformedError) as caught:
        wanted_of(name, {})
    assert caught.value.code == "collateral.name"


# Real evidence, with the collateral that was published with it, at its time.


class Published(FakePccs):
    """A PCCS that has what was published with a quote."""

    def __init__(self, name):
        super().__init__(INTEL)
        self.fields = json.loads(content(name))

    def answer(self, method, path, query, body):
        from urllib.parse import quote

        rest = path.partition("/certification/v4/")[2]
        fields = self.fields
        match rest:
            case "tcb" | "qe/identity":
                name, header = (
                    ("tcb_info", "TCB-Info-Issuer-Chain") if rest == "tcb"
                    else ("qe_identity", "SGX-Enclave-Identity-Issuer-Chain")
                )  # fmt: skip
                outer = "tcbInfo" if rest == "tcb" else "enclaveIdentity"
                text = f'{{"{outer}":{fields[name]},"signature":"{fields[name + "_signature"]}"}}'
                chain = {header: quote(fields[f"{name}_issuer_chain"])}
                return Reply(body=text.encode(), headers=chain)
            case "pckcrl":
                chain = {"SGX-PCK-CRL-Issuer-Chain": quote(fields["pck_crl_issuer_chain"])}
                return Reply(body=bytes.fromhex(fields["pck_crl"]), headers=chain)
            case "rootcacrl":
                return Reply(body=fields["root_ca_crl"].encode())
            case _:
                return Reply(status=404)


@needs_published
@pytest.mark.parametrize(
    ("kind", "evidence", "collateral"),
    [(Tee.SGX, "sgx/quote_v3.bin", "sgx/quote_v3.collateral.json"),
     (Tee.TDX, "tdx/quote_v4.bin", "tdx/quote_v4.collateral.json")],
)  # fmt: skip
def test_a_real_quote_verifies_with_what_a_pccs_passes_on(tmp_path, kind, evidence, collateral):
    at = datetime.datetime(2025, 6, 20, tzinfo=datetime.UTC)
    quote = content(evidence)
    with Published(collateral) as pccs:
        cache = CollateralCache(
            tmp_path, web=QUICK, services=Services(pccs=pccs.url), clock=lambda: at
        )
        gathered = gather(kind, quote, given=NOTHING, source=cache)
    report = verified(kind, quote, gathered, at=at, roots=VendorRoots())
    assert report.claims["collateral_valid_until"]


class PublishedKds(FakeService):
    """A KDS that has a published chip's certificate."""

    def answer(self, method, path, query, body):
        match path.split("/"):
            case ["", "vcek", "v1", "Turin" | "Milan" as product, "cert_chain"]:
                name = {"Milan": "ask_ark_milan", "Turin": "ask_ark_turin_vcek"}[product]
                return Reply(body=content(f"snp/chains/{name}.pem"))
            case ["", "vcek", "v1", "Turin" | "Milan" as product, chip] if chip != "crl":
                name = {"Milan": "milan_v3_vcek", "Turin": "turin_v5_vcek"}[product]
                return Reply(body=_der(content(f"snp/{name}.pem")))
            case _:
                return Reply(status=404)


def _der(pem):
    from casemate.endorsements.certificates import load_certificates

    return der(load_certificates(pem, what="it")[0])


@needs_published
@pytest.mark.parametrize("evidence", ["snp/milan_v3_report.bin", "snp/turin_v5_report.bin"])
def test_a_real_chips_certificate_is_asked_for_rightly(tmp_path, evidence):
    at = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
    report = content(evidence)
    with PublishedKds() as kds:
        cache = CollateralCache(
            tmp_path, web=QUICK, services=Services(kds=kds.url), clock=lambda: at
        )
        vcek, crl = needs(Tee.SNP, report, NOTHING)
        gathered = assemble([cache.get(vcek)], given=NOTHING)
        assert verified(Tee.SNP, report, gathered, at=at, roots=VendorRoots())
        with pytest.raises(UnavailableError) as caught:  # none was published
            cache.get(crl)
    assert caught.value.code == "collateral.refused"


@needs_published
def test_real_manifests_are_asked_for_under_their_ids(tmp_path):
    at = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    report = content("nvidia/h100_report.bin")
    chain = sort_endorsements([("chain", content("nvidia/h100_chain.pem"))])
    wanted = [each for each in needs(Tee.NVIDIA, report, chain) if isinstance(each, NvidiaRim)]
    assert [each.name for each in wanted] == [
        "nvidia/rim/NV_GPU_DRIVER_GH100_550.90.07",
        "nvidia/rim/NV_GPU_VBIOS_1010_0200_882_96009F0001",
    ]
    files = ("nvidia/h100_driver_rim_550.90.07.xml", "nvidia/h100_vbios_rim.xml")
    manifests = {
        each.id: content(name) for each, name in zip(wanted, files, strict=True)
    }  # fmt: skip
    with FakeRim(manifests) as rim:
        cache = CollateralCache(
            tmp_path, web=QUICK, services=Services(rim=rim.url), clock=lambda: at
        )
        gathered = assemble([cache.get(each) for each in wanted], given=chain)
        assert verified(Tee.NVIDIA, report, gathered, at=at, roots=VendorRoots())
        for lie in ({wanted[0].id: manifests[wanted[1].id]}, {wanted[0].id: b"<x/>"}):
            rim.manifests = lie
            with pytest.raises(UnavailableError) as caught:
                CollateralCache(
                    tmp_path / "other", web=QUICK, services=Services(rim=rim.url),
                    clock=lambda: at,
                ).get(wanted[0])  # fmt: skip
            assert caught.value.code in ("collateral.another", "collateral.form")


def test_a_manifest_under_another_id_is_no_answer(tmp_path):
    wanted = NvidiaRim("NV_GPU_DRIVER_GH100_550.90.07")
    with FakeRim({wanted.id: b"<x/>"}) as rim:
        rim.says = "NV_GPU_DRIVER_GH100_550.54.15"
        cache = CollateralCache(tmp_path, web=QUICK, services=Services(rim=rim.url))
        with pytest.raises(UnavailableError) as caught:
            cache.get(wanted)
    assert (caught.value.code, caught.value.field) == ("collateral.form", "id")


@needs_published
def test_an_attested_certificate_needs_what_its_quote_needs():
    names = [each.name for each in needs(RATLS, content("ratls/gramine_cert.pem"), NOTHING)]
    assert names[0].startswith("intel/sgx/tcb/")
    assert "intel/root-crl" in names
