"""When evidence of platforms of our own stops passing, and what Intel's early word changes."""

import datetime

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.policies import policy_text

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import MalformedError, UnavailableError
from casemate.policy import PolicyDocument
from casemate.project.verification import Expected, Verification
from casemate.verify.chain import fingerprint
from casemate.verify.forecast import forecast_end
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb, TcbLevel
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.snp import SnpPlatform
from casemate_testkit.tokens import TokenService

MONTH = 30 * DAY
MINUTE = datetime.timedelta(minutes=1)
INTEL = DcapPlatform()
AMD = SnpPlatform(until=NOW + 12 * DAY)
ROOTS = VendorRoots(intel=INTEL.root_der, amd={"Milan": fingerprint(AMD.ark.certificate)})
BEHIND = Tcb(
    levels=(TcbLevel(svn=6), TcbLevel(status="OutOfDate", advisories=("INTEL-SA-00999",))),
    number=22,
)


def foretold(data, *files, policy=None, within=MONTH, at=NOW):
    verification = Verification(
        tee=None,
        endorsements=sort_endorsements([(f"file {n}", each) for n, each in enumerate(files)]),
        eventlog=None,
        at=at,
        expected=Expected(),
        policy=PolicyDocument.parse(policy) if policy else None,
        roots=ROOTS,
    )
    outcome = verification.verify(data)
    assert outcome.error is None, outcome.error
    return verification.foretell(data, outcome, within=within).forecast


def chain():
    return [each.public_bytes(Encoding.DER) for each in AMD.certificates]


def test_a_certificate_that_ends():
    (found,) = foretold(AMD.report(), *chain())
    assert (found.kind, found.passes, found.code) == ("ends", False, "snp.expired")
    assert abs(found.at - (NOW + 12 * DAY)) <= MINUTE
    assert found.at <= NOW + 12 * DAY
    assert "2026-06-12 23:59 UTC" in found.what or "2026-06-13 00:00 UTC" in found.what


@pytest.mark.parametrize("within", [11 * DAY, datetime.timedelta()])
def test_what_lies_further_ahead_is_not_told(within):
    assert foretold(AMD.report(), *chain(), within=within) == ()


def test_a_revocation_list_that_ends_first():
    lists = [
        AMD.ark.revocation_list(end=NOW + 5 * DAY).public_bytes(Encoding.DER),
    ]
    (found,) = foretold(AMD.report(), *chain(), *lists)
    assert found.kind == "refresh"
    assert abs(found.at - (NOW + 5 * DAY)) <= MINUTE


def test_collateral_that_must_be_fetched_again():
    (found,) = foretold(INTEL.sgx_quote(), INTEL.collateral())
    assert (found.kind, found.code) == ("refresh", "dcap.collateral-expired")
    assert abs(found.at - (NOW + 20 * DAY)) <= MINUTE
    assert "Fetch it again" in found.remedy


def test_a_policy_that_ends_or_an_age_that_grows():
    constraints = {"measurement": f'exactly = "{"22" * 48}"', "debug": "exactly = false"}
    ends = policy_text("snp", constraints).replace(
        'tee = "snp"', f'tee = "snp"\nexpires = {(NOW + 3 * DAY).isoformat()}'
    )
    (found,) = foretold(AMD.report(), *chain(), policy=ends)
    assert (found.code, found.field) == ("policy.mismatch", "expires")
    assert abs(found.at - (NOW + 3 * DAY)) <= MINUTE


def test_a_token():
    service = TokenService()
    (found,) = foretold(service.token(), service.key_set(), within=DAY)
    assert found.code == "maa.expired"
    assert abs(found.at - (NOW + 8 * 60 * MINUTE)) <= MINUTE


@pytest.mark.parametrize("order", [1, -1])
def test_intels_early_word_of_a_platform_that_is_behind(order):
    editions = [INTEL.collateral(), INTEL.collateral(BEHIND)][::order]
    found = foretold(INTEL.sgx_quote(), *editions)
    assert [each.kind for each in found] == ["refresh", "tcb-recovery"]
    recovery = found[1]
    assert recovery.passes  # no policy was asked
    assert recovery.at is None
    assert "edition 22" in recovery.what
    assert "tcb_status UpToDate → OutOfDate" in recovery.what
    assert "INTEL-SA-00999" in recovery.what


def test_the_policy_says_whether_the_early_word_matters():
    constraints = {"mr_enclave": f'exactly = "{"22" * 32}"', "debug": "exactly = false"}
    found = foretold(
        INTEL.sgx_quote(), INTEL.collateral(), INTEL.collateral(BEHIND),
        policy=policy_text("sgx", constraints),
    )  # fmt: skip
    recovery = found[-1]
    assert (recovery.passes, recovery.code, recovery.field) == (
        False, "policy.mismatch", "tcb_status",
    )  # fmt: skip


def test_an_early_word_that_changes_nothing():
    found = foretold(INTEL.sgx_quote(), INTEL.collateral(), INTEL.collateral(Tcb(number=22)))
    assert [each.kind for each in found] == ["refresh"]


def test_judged_by_the_standard_edition_alone():
    endorsements = sort_endorsements(
        [("early", INTEL.collateral(BEHIND)), ("standard", INTEL.collateral())]
    )
    assert endorsements.dcap.tcb_evaluation_data_number == 21
    assert endorsements.dcap_early.tcb_evaluation_data_number == 22


@pytest.mark.parametrize(
    "files",
    [
        [INTEL.collateral(), INTEL.collateral()],
        [INTEL.collateral(), INTEL.collateral(BEHIND, td=True)],
        [INTEL.collateral(), INTEL.collateral(BEHIND, fmspc=bytes(6))],
        [INTEL.collateral(), INTEL.collateral(BEHIND), INTEL.collateral(Tcb(number=23))],
    ],
    ids=["the same twice", "of TDX", "of another platform", "three"],
)
def test_collateral_that_is_no_early_word_of_the_other(files):
    with pytest.raises(MalformedError, match="isn't an endorsement"):
        sort_endorsements([(f"file {n}", each) for n, each in enumerate(files)])


ENDS = [NOW + days * DAY for days in (3, 7, 12, 21, 40)]


@pytest.mark.parametrize("ends", [(), ENDS, [ENDS[2]], [ENDS[0], ENDS[3]]])
@pytest.mark.parametrize("really", [ENDS[0], ENDS[2], ENDS[2] + 7 * MINUTE, NOW + MINUTE / 2])
def test_what_is_known_to_end_changes_where_it_looks_and_nothing_that_it_says(ends, really):
    judged = []

    def judge(moment):
        judged.append(moment)
        return UnavailableError("it.ended", "it ended") if moment >= really else None

    found = forecast_end(judge, at=NOW, within=MONTH, ends=ends)
    assert really - MINUTE - datetime.timedelta(seconds=1) <= found.at <= really
    if really in ends:
        assert len(judged) <= 5  # instead of 17


def test_the_end_of_collateral_is_known_to_the_second():
    (found,) = foretold(INTEL.sgx_quote(), INTEL.collateral())
    assert found.at == NOW + 20 * DAY - datetime.timedelta(seconds=1)
