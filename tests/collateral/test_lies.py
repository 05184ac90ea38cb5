"""Services that lie: what they send is never kept, and the error names service and field."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.collateral.amd import AmdChain, AmdCrl, AmdVcek
from casemate.collateral.cache import CollateralCache
from casemate.collateral.intel import IntelPckCrl, IntelQeIdentity, IntelRootCrl, IntelTcb
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.errors import UnavailableError
from casemate.evidence.snp import TcbVersion
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb
from casemate_testkit.pki import DAY, NOW, P256, make
from casemate_testkit.services.kds import FakeKds
from casemate_testkit.services.pccs import FakePccs
from casemate_testkit.services.web import Fault
from casemate_testkit.snp import SnpPlatform

INTEL, OTHER_INTEL = DcapPlatform(), DcapPlatform()
AMD, OTHER_AMD = SnpPlatform(), SnpPlatform()
ROOTS = VendorRoots(
    intel=INTEL.root_der, amd={"Milan": fingerprint(AMD.ark.certificate)}
)  # fmt: skip
QUICK = Web(seconds=0.6, patience=1.0, attempts=1)
TCB, QE = IntelTcb("tdx", INTEL.fmspc.hex()), IntelQeIdentity("sgx")
PCK_CRL, ROOT_CRL = IntelPckCrl("platform"), IntelRootCrl()
VCEK = AmdVcek("Milan", AMD.chip, TcbVersion(fmc=None, bootloader=4, tee=0, snp=24, microcode=219))
CHAIN, AMD_CRL = AmdChain("Milan", "vcek"), AmdCrl("Milan", "vcek")


def _tail(text):
    return lambda pccs: setattr(pccs, "text", text)


def _set(**values):
    def lie(service):
        for name, value in values.items():
            setattr(service, name, value)

    return lie


_SHORT = Tcb(start=NOW - 30 * DAY, end=NOW - DAY)
_EARLY = Tcb(start=NOW + DAY, end=NOW + 30 * DAY)
_STRANGER = make("Intel SGX TCB Signing", curve=P256)
_PLATFORM_KEY = INTEL.pck
INTEL_LIES = {
    "another root": (_set(platform=OTHER_INTEL), (TCB, QE, PCK_CRL, ROOT_CRL), "collateral.root"),
    "a signer of nobody's": (_set(signer=_STRANGER), (TCB, QE), "collateral.chain"),
    "a platform's key as signer": (_set(signer=_PLATFORM_KEY), (TCB, QE), "collateral.chain"),
    "a CA's key as signer": (_set(signer=INTEL.pck_ca), (TCB, QE), "collateral.signer"),
    "another platform": (_set(fmspc=bytes(6)), (TCB,), "collateral.another"),
    "a word changed": (_tail(("UpToDate", "OutOfDate")), (TCB, QE), "collateral.signature"),
    "a blank more": (_tail((",", ", ")), (TCB, QE), "collateral.signature"),
    "the other TEE's": (_tail(('"TDX"', '"SGX"')), (TCB,), "collateral.signature"),
    "an edition that has ended": (_set(tcb=_SHORT), (TCB, QE), "collateral.outdated"),
    "an edition of tomorrow": (_set(tcb=_EARLY), (TCB, QE), "collateral.outdated"),
    "a list that has ended": (
        _set(lists_start=NOW - 9 * DAY, lists_end=NOW - DAY), (PCK_CRL, ROOT_CRL),
        "collateral.outdated",
    ),
    "a list of tomorrow": (_set(lists_start=NOW + DAY), (PCK_CRL, ROOT_CRL), "collateral.outdated"),
    "a list that somebody else signed": (
        _set(crl_signer=OTHER_INTEL.pck_ca), (PCK_CRL,), "collateral.signature",
    ),
}  # fmt: skip


def _other_leaf(**options):
    return _set(leaf=SnpPlatform(root=AMD.ark, **options).vcek.certificate)


def _sibling(**changes):
    """A machine under the same issuer: only what is asked for differs."""
    other = SnpPlatform(root=AMD.ark, **changes)
    parts = {each.oid.dotted_string: each.value.value for each in list(
        other.vcek.certificate.extensions) if hasattr(each.value, "value")}  # fmt: skip
    return _set(leaf=AMD.ask.issue("SEV-VCEK", ca=False, extensions=parts).certificate)


AMD_LIES = {
    "another root": (_set(machine=OTHER_AMD), (VCEK, CHAIN, AMD_CRL), "collateral.root"),
    "a leaf of another issuer": (_other_leaf(), (VCEK,), "collateral.chain"),
    "another chip": (_sibling(chip=bytes(64)), (VCEK,), "collateral.another"),
    "another TCB": (_sibling(tcb=(4, 0, 23, 219)), (VCEK,), "collateral.another"),
    "an issuer as leaf": (_set(leaf=AMD.ask.certificate), (VCEK,), "collateral"),
    "a list that somebody else signed": (
        _set(list_signer=OTHER_AMD.ark), (AMD_CRL,), "collateral.signature",
    ),
    "a list that has ended": (
        _set(lists_start=NOW - 9 * DAY, lists_end=NOW - DAY), (AMD_CRL,), "collateral.outdated",
    ),
}  # fmt: skip


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


def refused(cache, wanted, code, url):
    with pytest.raises(UnavailableError) as caught:
        cache.get(wanted)
    error = caught.value
    assert error.code.startswith(code), error
    assert wanted.name in error.message or error.field.startswith(url)
    assert url.removeprefix("http://") in error.message
    assert error.field
    assert list(cache._folder.glob("*.cbor")) == []


def _cases(lies):
    for name, (lie, parts, code) in lies.items():
        for wanted in parts:
            yield pytest.param(lie, wanted, code, id=f"{wanted.name.split('/')[1]}: {name}")


@pytest.mark.parametrize(("lie", "wanted", "code"), list(_cases(INTEL_LIES)))
def test_a_lying_pccs_is_never_believed(cache, services, lie, wanted, code):
    lie(services[0])
    refused(cache, wanted, code, services[0].url)


@pytest.mark.parametrize(("lie", "wanted", "code"), list(_cases(AMD_LIES)))
def test_a_lying_kds_is_never_believed(cache, services, lie, wanted, code):
    lie(services[1])
    refused(cache, wanted, code, services[1].url)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("wanted", [TCB, PCK_CRL, VCEK], ids=lambda each: each.name.split("/")[1])
def test_nothing_that_comes_damaged_is_kept(cache, services, wanted, fault):
    for each in services:
        each.fault = fault
    service = services[1 if isinstance(wanted, AmdVcek) else 0]
    refused(cache, wanted, "collateral.", service.url)


@pytest.mark.parametrize("wanted", [VCEK, CHAIN, AMD_CRL], ids=lambda each: each.name.split("/")[1])
def test_what_amds_service_has_is_kept(cache, wanted):
    assert cache.get(wanted).fetched
    assert cache.look(wanted) is not None


def test_the_parameters_stand_in_amds_order(cache, services):
    cache.get(VCEK)
    assert services[1].seen[0].endswith("?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219")


def test_lists_come_in_any_form(cache, services):
    pccs, _ = services
    right = pccs.answer
    for encoding in (Encoding.PEM, Encoding.DER):
        crl = INTEL.root_ca.revocation_list(end=NOW + 20 * DAY).public_bytes(encoding)
        reply = type(right("GET", "/sgx/certification/v4/rootcacrl", "", b""))(body=crl)
        pccs.answer = lambda *question, reply=reply: (
            reply if question[1].endswith("rootcacrl") else right(*question)
        )
        assert cache.get(ROOT_CRL)
        for each in cache._folder.iterdir():
            each.unlink()
