"""SGX and TDX quotes of a platform of our own: one fault a case."""

import json

import pytest
from tests.support.certificates import with_chain

from casemate.endorsements.collection import Endorsements
from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.evidence.eventlog import parse_event_log
from casemate.evidence.quote import parse_quote
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList
from casemate.verify.dcap import verify_quote
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb, TcbLevel
from casemate_testkit.eventlog import TD_BOOT, Event, event_log, rtmrs
from casemate_testkit.pki import DAY, NOW, P256, pem

PLATFORM = DcapPlatform()
OTHER = DcapPlatform(root=PLATFORM.root_ca)
STRANGER = DcapPlatform()
LOW = DcapPlatform(root=PLATFORM.root_ca, svn=4)
OLD_QE = DcapPlatform(root=PLATFORM.root_ca, qe_svn=7)
ENDED = DcapPlatform(root=PLATFORM.root_ca, leaf_end=NOW - DAY)
DEBUG_TD = (1 | 1 << 28).to_bytes(8, "little")
STATUSES = (
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded",
    "OutOfDate", "OutOfDateConfigurationNeeded",
)  # fmt: skip


def verify(quote, *, platform=PLATFORM, root=PLATFORM.root_der, at=NOW, **collateral):
    td = quote[4] == 0x81
    parsed = parse_dcap_collateral(platform.collateral(td=td, **collateral))
    return verify_quote(quote, collateral=parsed, at=at, root=root)


def refused(code, quote, **options):
    with pytest.raises(CasemateError) as caught:
        verify(quote, **options)
    assert caught.value.code == code
    return caught.value


def test_a_genuine_enclave():
    report = verify(PLATFORM.sgx_quote())
    assert report.tee == "sgx"
    assert report.report_data == b"\x11" * 64
    assert report.claims["mr_enclave"] == b"\x22" * 32
    assert report.claims["mr_signer"] == b"\x33" * 32
    assert (report.claims["isv_prod_id"], report.claims["isv_svn"]) == (1, 2)
    assert report.claims["debug"] is False
    assert report.claims["tcb_status"] == "UpToDate"
    assert report.claims["tcb_evaluation_data_number"] == 21
    assert report.claims["ppid"] == PLATFORM.ppid
    assert all(check.held for check in report.checks)


@pytest.mark.parametrize(
    "options", [{}, {"version": 5}, {"version": 5, "mr_service_td": bytes(48)}],
    ids=["version 4", "version 5", "version 5, module 1.5"],
)  # fmt: skip
def test_a_genuine_trust_domain(options):
    report = verify(PLATFORM.td_quote(rtmr=[bytes((n,)) * 48 for n in range(4)], **options))
    assert report.tee == "tdx"
    assert report.claims["mr_td"] == b"\x22" * 48
    assert report.claims["rtmr3"] == b"\x03" * 48
    assert (report.claims["debug"], report.claims["sept_ve_disable"]) == (False, True)
    assert report.claims["tcb_status"] == "UpToDate"


@pytest.mark.parametrize("version", [4, 5])
def test_an_enclaves_newer_quote_is_read_and_not_judged(version):
    quote = PLATFORM.sgx_quote(version=version)
    assert parse_quote(quote).report.mr_enclave == b"\x22" * 32
    assert isinstance(refused("dcap.quote-version", quote), UnavailableError)


@pytest.mark.parametrize("td", [False, True], ids=["sgx", "tdx"])
@pytest.mark.parametrize("status", STATUSES)
def test_each_state_of_the_platform_is_a_claim(td, status):
    tcb = Tcb(levels=(TcbLevel(status=status, advisories=("INTEL-SA-00001",)),))
    quote = PLATFORM.td_quote() if td else PLATFORM.sgx_quote()
    claims = verify(quote, tcb=tcb).claims
    assert claims["tcb_status"] == status
    assert claims["advisories"] == ("INTEL-SA-00001",)


@pytest.mark.parametrize(
    "tcb",
    [
        Tcb(qe=(TcbLevel(svn=9), TcbLevel(svn=8, status="OutOfDate"))),
        Tcb(levels=(TcbLevel(svn=6), TcbLevel(svn=5, status="OutOfDate"))),
    ],
    ids=["quoting enclave", "platform"],
)
def test_what_is_older_is_out_of_date(tcb):
    assert verify(PLATFORM.sgx_quote(), tcb=tcb).claims["tcb_status"] == "OutOfDate"


def test_an_older_tdx_module_is_out_of_date():
    tcb = Tcb(module=(TcbLevel(svn=4), TcbLevel(svn=3, status="OutOfDate")))
    assert verify(PLATFORM.td_quote(), tcb=tcb).claims["tcb_status"] == "OutOfDate"


FAULTS = {
    "a platform below every level": lambda: (LOW.sgx_quote(), {"platform": LOW}),
    "a trust domain's platform below every level": lambda: (LOW.td_quote(), {"platform": LOW}),
    "a TDX module below every level": lambda: (
        PLATFORM.td_quote(tee_tcb_svn=bytes((2, 1)) + bytes((5,)) * 14), {},
    ),
    "a TDX module that nobody knows": lambda: (
        PLATFORM.td_quote(tee_tcb_svn=bytes((3, 2)) + bytes((5,)) * 14), {},
    ),
    "a quoting enclave below every level": lambda: (OLD_QE.sgx_quote(), {"platform": OLD_QE}),
    "a quoting enclave of another signer": lambda: (
        (p := DcapPlatform(root=PLATFORM.root_ca, qe_signer=bytes(32))).sgx_quote(),
        {"platform": p},
    ),
    "a platform whose level is revoked": lambda: (
        PLATFORM.sgx_quote(), {"tcb": Tcb(levels=(TcbLevel(status="Revoked"),))},
    ),
    "a revoked platform": lambda: (
        PLATFORM.sgx_quote(), {"revoked": [PLATFORM.pck.certificate]},
    ),
    "a revoked issuer of platforms": lambda: (
        PLATFORM.sgx_quote(), {"revoked": [PLATFORM.pck_ca.certificate]},
    ),
    "a revoked signer of TCB information": lambda: (
        PLATFORM.sgx_quote(), {"revoked": [PLATFORM.tcb_signer.certificate]},
    ),
    "a platform whose certificate has ended": lambda: (ENDED.sgx_quote(), {"platform": ENDED}),
    "another platform's revocation list": lambda: (PLATFORM.sgx_quote(), {"platform": OTHER}),
    "another root": lambda: (PLATFORM.sgx_quote(), {"root": STRANGER.root_der}),
    "collateral under another root": lambda: (PLATFORM.sgx_quote(), {"platform": STRANGER}),
    "another kind of platform": lambda: (PLATFORM.sgx_quote(), {"fmspc": bytes(6)}),
    "another attestation key": lambda: (
        PLATFORM.sgx_quote(signer=OTHER.attestation_key), {},
    ),
    "a quoting enclave on another platform": lambda: (PLATFORM.sgx_quote(pck=OTHER.pck), {}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_quote_with_one_fault(fault):
    quote, options = FAULTS[fault]()
    assert isinstance(refused("dcap.verification", quote, **options), NotGenuineError)


def test_collateral_of_the_other_kind():
    collateral = parse_dcap_collateral(PLATFORM.collateral(td=True))
    with pytest.raises(NotGenuineError):
        verify_quote(PLATFORM.sgx_quote(), collateral=collateral, at=NOW, root=PLATFORM.root_der)


def test_our_root_is_not_intels():
    assert isinstance(refused("dcap.verification", PLATFORM.sgx_quote(), root=None), CasemateError)


REASONS = {
    "an enclave in debug mode": ("dcap.debug", PLATFORM.sgx_quote(debug=True)),
    "a trust domain in debug mode": ("dcap.debug", PLATFORM.td_quote(td_attributes=DEBUG_TD)),
    "a trust domain with faults": (
        "dcap.sept-ve-disable", PLATFORM.td_quote(td_attributes=bytes(8)),
    ),
    "a trust domain with a service": (
        "dcap.service-td", PLATFORM.td_quote(version=5, mr_service_td=b"\1" * 48),
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REASONS)
def test_what_can_be_looked_into_is_told_by_its_own_reason(reason):
    code, quote = REASONS[reason]
    refused(code, quote)


def test_a_platforms_key_does_not_sign_tcb_information():
    """The library takes every key below the root; who has a platform's could say what he likes."""
    forger = PLATFORM.root_ca.issue("Intel SGX PCK Certificate", ca=False, curve=P256)
    refused("dcap.signer", PLATFORM.sgx_quote(), signer=forger)


def test_the_platform_that_is_verified_is_the_one_that_is_told():
    """The library prefers collateral's chain of the platform to the quote's, which claims tell."""
    forged = DcapPlatform(ppid=b"\xee" * 16)
    quote = PLATFORM.sgx_quote()
    swapped = with_chain(quote, of=PLATFORM, to=forged)
    own = (PLATFORM.pck, PLATFORM.pck_ca, PLATFORM.root_ca)
    chain = pem(*(each.certificate for each in own))
    fields = json.loads(PLATFORM.collateral()) | {"pck_certificate_chain": chain.decode()}
    collateral = parse_dcap_collateral(json.dumps(fields).encode())
    given = {"collateral": collateral, "at": NOW, "root": PLATFORM.root_der}
    assert verify_quote(quote, **given).claims["ppid"] == PLATFORM.ppid
    with pytest.raises(NotGenuineError) as caught:
        verify_quote(swapped, **given)
    assert caught.value.code == "dcap.verification"


OUTDATED = {
    "TCB information": {"tcb": Tcb(end=NOW - DAY, start=NOW - 3 * DAY)},
    "revocation lists": {"lists_end": NOW - DAY},
    "of the future": {"tcb": Tcb(start=NOW + DAY)},
}


@pytest.mark.parametrize("part", OUTDATED)
def test_outdated_collateral_tells_nothing(part):
    error = refused("dcap.collateral-expired", PLATFORM.sgx_quote(), **OUTDATED[part])
    assert isinstance(error, UnavailableError)


def test_no_collateral_tells_nothing():
    with pytest.raises(UnavailableError) as caught:
        verify_quote(PLATFORM.sgx_quote(), collateral=None, at=NOW, root=PLATFORM.root_der)
    assert caught.value.code == "dcap.no-collateral"


def with_log(events, *, quoted=TD_BOOT):
    return verify_anything(
        "tdx", PLATFORM.td_quote(rtmr=rtmrs(quoted)), at=NOW, checks=CheckList(),
        roots=VendorRoots(intel=PLATFORM.root_der),
        endorsements=Endorsements(dcap=parse_dcap_collateral(PLATFORM.collateral(td=True))),
        eventlog=parse_event_log(event_log(events, td=True)),
    )  # fmt: skip


def test_a_trust_domains_log_gives_its_registers():
    report = with_log(TD_BOOT)
    assert report.checks[-1].name == "eventlog.replay"
    assert report.claims["rtmr3"] == bytes(48)


LOGS = {
    "of an earlier boot": (*TD_BOOT, Event(register=4, type=13, data=b"a launch contract")),
    "without an event": TD_BOOT[1:],
    "with another event": (Event(register=1, type=8, data=b"x"), *TD_BOOT[1:]),
    "into a register that there isn't": (*TD_BOOT, Event(register=5, type=13, data=b"x")),
}


@pytest.mark.parametrize("which", LOGS)
def test_a_log_that_is_not_what_was_measured(which):
    with pytest.raises(NotGenuineError) as caught:
        with_log(LOGS[which])
    assert caught.value.code == "eventlog.replay"
