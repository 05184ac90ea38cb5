"""What policies say of Intel platforms, held against quotes of a platform of our own."""

import pytest

from casemate.endorsements.dcap import parse_dcap_collateral
from casemate.errors import NotAcceptableError
from casemate.policy import AnyOf, appraise
from casemate.policy.constraint import AtLeast, AtMost, NoneOf, Only
from casemate.policy.derive import policy_from_report
from casemate.verify.dcap import verify_quote
from casemate_testkit.dcap import DcapPlatform, Tcb, TcbLevel
from casemate_testkit.pki import DAY, NOW

PLATFORM = DcapPlatform()


def days_ago(number):
    return (NOW - number * DAY).strftime("%Y-%m-%dT00:00:00Z")


def report(tcb=None, *, td=False, at=NOW):
    quote = PLATFORM.td_quote() if td else PLATFORM.sgx_quote()
    collateral = parse_dcap_collateral(PLATFORM.collateral(tcb or Tcb(), td=td))
    return verify_quote(quote, collateral=collateral, at=at, root=PLATFORM.root_der)


def refused(found, **rules):
    """The fields that a strict policy of the platform, with these rules, refuses."""
    (policy,) = policy_from_report(report(td=found.tee == "tdx")).policies.values()
    (alternative,) = policy.alternatives
    changed = type(alternative)(
        tee=alternative.tee, constraints={**alternative.constraints, **rules}
    )
    try:
        appraise(type(policy)(name="p", alternatives=(changed,)), found, launch=None, at=NOW)
    except NotAcceptableError as error:
        return [each.field for each in error.mismatches]
    return []


def outdated(days, *, part="levels"):
    """A platform of whose part there has been something newer for so many days."""
    newer = TcbLevel(svn=9, date=days_ago(days))
    older = {"levels": 5, "qe": 8, "module": 3}[part]
    mine = TcbLevel(svn=older, status="OutOfDate", date=days_ago(500))
    return Tcb(**{part: (newer, mine)})


OLD = AnyOf(("UpToDate", "OutOfDate"))
RELAXED = {"tcb_date": AtLeast("2020-01-01"), "advisories": Only(())}


def test_a_platform_that_is_up_to_date_is_accepted():
    for td in (False, True):
        assert refused(report(td=td)) == []


@pytest.mark.parametrize(
    ("part", "td"), [("levels", False), ("levels", True), ("qe", False), ("module", True)]
)
def test_a_grace_period_counts_from_what_is_newer(part, td):
    found = report(outdated(14, part=part), td=td)
    assert found.claims["tcb_out_of_date_days"] == 14
    assert "tcb_status" in refused(found)
    assert refused(found, tcb_status=OLD, **RELAXED) == ["tcb_out_of_date_days"]
    for days, fields in ((13, ["tcb_out_of_date_days"]), (14, []), (30, [])):
        rules = {"tcb_out_of_date_days": AtMost(days), "tcb_status": OLD, **RELAXED}
        assert refused(found, **rules) == fields


def test_a_grace_period_does_not_allow_a_status():
    found = report(outdated(1))
    assert refused(found, tcb_out_of_date_days=AtMost(99), **RELAXED) == ["tcb_status"]


def test_a_level_may_be_too_old_whatever_its_status():
    found = report(Tcb(levels=(TcbLevel(date="2023-01-01T00:00:00Z"),)))
    assert refused(found, tcb_date=AtLeast("2023-01-01")) == []
    assert refused(found, tcb_date=AtLeast("2023-01-02")) == ["tcb_date"]


@pytest.mark.parametrize(
    ("rule", "fields"),
    [
        (Only(("INTEL-SA-00001", "INTEL-SA-00002")), []),
        (Only(("INTEL-SA-00001",)), ["advisories"]),
        (Only(()), ["advisories"]),
        (NoneOf(("INTEL-SA-00003",)), []),
        (NoneOf(("INTEL-SA-00002", "INTEL-SA-00003")), ["advisories"]),
    ],
)
def test_advisories_are_allowed_or_denied(rule, fields):
    level = TcbLevel(status="SWHardeningNeeded", advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    rules = {"tcb_status": AnyOf(("UpToDate", "SWHardeningNeeded")), "advisories": rule}
    assert refused(report(Tcb(levels=(level,))), **rules) == fields


def test_collateral_may_be_too_old_or_of_too_early_an_evaluation():
    found = report(Tcb(start=NOW - 5 * DAY, number=20))
    assert found.claims["collateral_age_days"] == 5
    assert refused(found) == ["tcb_evaluation_data_number"]
    rules = {"tcb_evaluation_data_number": AtLeast(20)}
    assert refused(found, **rules, collateral_age_days=AtMost(5)) == []
    assert refused(found, **rules, collateral_age_days=AtMost(4)) == ["collateral_age_days"]


def test_known_machines_alone():
    for name in ("ppid", "fmspc"):
        value = report().claims[name]
        assert refused(report(), **{name: AnyOf((bytes(len(value)), value))}) == []
        assert refused(report(), **{name: AnyOf((bytes(len(value)),))}) == [name]
