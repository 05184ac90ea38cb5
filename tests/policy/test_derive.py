"""Policies made from evidence: strict, and met by that evidence where nothing in it is weak."""

import dataclasses
import datetime

import pytest
from tests.support import published

from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.errors import NotAcceptableError, UsageError
from casemate.evidence import Tee
from casemate.evidence.detect import unwrap
from casemate.policy import FIELDS, appraise
from casemate.policy.constraint import AnyOf, Unchecked
from casemate.policy.derive import policy_from_report
from casemate.policy.document import PolicyDocument
from casemate.policy.review import Weight, review
from casemate.types import ReportData, Sha384
from casemate.verify import VerifiedReport
from casemate.verify.anything import verify_anything
from casemate.verify.chain import fingerprint
from casemate.verify.checks import CheckList
from casemate.verify.roots import VendorRoots
from casemate_testkit.pki import NOW
from casemate_testkit.snp import SnpPlatform

LAUNCH = Sha384(b"\x05" * 48)
# What no published evidence has: revocation lists, and up-to-date platforms.
WEAK = {"revocation", "tcb_status", "advisories", "tcb_out_of_date_days", "age_seconds"}
CASES = [case for case in published.cases() if case["cryptography"] == "valid"]


def snp(machine=None, **fields):
    machine = machine or SnpPlatform()
    lists = [machine.ark.revocation_list()]
    roots = VendorRoots(amd={"Milan": fingerprint(machine.ark.certificate)})
    given = Endorsements(certificates=tuple(machine.certificates), revocation_lists=tuple(lists))
    return verify_anything(
        Tee.SNP, machine.report(**fields), endorsements=given, at=NOW, roots=roots,
        checks=CheckList(),
    )  # fmt: skip


def accepted(document, report, launch=None):
    (policy,) = document.policies.values()
    return appraise(policy, report, launch=launch, at=NOW)


def test_a_policy_accepts_the_evidence_that_it_was_made_from():
    report = snp()
    document = policy_from_report(report, launch=LAUNCH, secrets=("a",))
    assert accepted(document, report, LAUNCH)
    assert document.secrets == {"a": ("launcher",)}
    assert PolicyDocument.parse(document.render()) == document
    worst = {finding.weight for finding in review(document, at=NOW)}
    assert worst == {Weight.NOTE}  # that any machine may be it


def test_another_machine_is_accepted_unless_the_machine_is_pinned():
    machine = SnpPlatform()
    other = snp(SnpPlatform(chip=bytes(range(1, 65))))
    assert accepted(policy_from_report(snp(machine)), other)
    with pytest.raises(NotAcceptableError) as caught:
        accepted(policy_from_report(snp(machine), pin_machine=True), other)
    assert [each.field for each in caught.value.mismatches] == ["chip_id"]


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [
        ("x090", b"\x23" * 48, "measurement"),
        ("x0c0", b"\x01" * 32, "host_data"),
        ("x030", (1).to_bytes(4, "little"), "vmpl"),
        ("x008", (0x3001E).to_bytes(8, "little"), "abi"),
        ("x040", (1).to_bytes(8, "little"), "platform_info"),
    ],
)
def test_what_differs_otherwise_is_refused(offset, value, field):
    document = policy_from_report(snp())
    with pytest.raises(NotAcceptableError) as caught:
        accepted(document, snp(**{offset: value}))
    assert field in {each.field for each in caught.value.mismatches}


def test_older_firmware_is_refused_and_newer_is_not():
    document = policy_from_report(snp(SnpPlatform(tcb=(4, 0, 24, 219))))
    assert accepted(document, snp(SnpPlatform(tcb=(5, 0, 24, 220))))
    with pytest.raises(NotAcceptableError):
        accepted(document, snp(SnpPlatform(tcb=(9, 0, 23, 255))))


def test_gpus_are_counted_and_each_is_like_one_of_them():
    def gpu(**changes):
        claims = {
            "architecture": "GH100", "driver_version": "550.1", "vbios_version": "96.00",
            "fwid": b"\x01" * 48, "secure_boot": True, "debug": False,
            "measurements_compared": 32, "device": b"\x02" * 32, "revocation": "checked",
        } | changes  # fmt: skip
        return VerifiedReport(tee=Tee.NVIDIA, report_data=ReportData(bytes(64)), claims=claims)

    two = gpu(driver_version="551.2", vbios_version="96.01", device=b"\x03" * 32)
    report = dataclasses.replace(snp(), gpus=(gpu(), two))
    document = policy_from_report(report)
    assert accepted(document, report)
    assert accepted(document, dataclasses.replace(report, gpus=(two, gpu())))
    pinned = policy_from_report(report, pin_machine=True)
    assert accepted(pinned, report)
    stranger = dataclasses.replace(report, gpus=(gpu(), gpu(device=b"\x04" * 32)))
    for wanted, gpus in (
        (document, (gpu(),)),
        (document, (gpu(), gpu(driver_version="550.0"))),
        (document, (gpu(), gpu(debug=True))),
        (pinned, stranger.gpus),
    ):
        with pytest.raises(NotAcceptableError):
            accepted(wanted, dataclasses.replace(report, gpus=gpus))


def test_without_a_launch_contract_the_policy_says_so():
    document = policy_from_report(snp())
    (alternative,) = document.policies["launcher"].alternatives
    assert isinstance(alternative.constraints["launch"], Unchecked)
    assert "launch" in {finding.field for finding in review(document, at=NOW)}


def test_no_policy_is_made_for_what_can_be_looked_into():
    with pytest.raises(NotAcceptableError) as caught:
        policy_from_report(snp(x008=(0xB001F).to_bytes(8, "little")))
    assert caught.value.code == "policy.debuggable"


def test_none_is_made_of_what_does_not_hold_the_key_that_vouches():
    report = VerifiedReport(tee=Tee.SIMULATED, report_data=ReportData(bytes(64)), claims={})
    with pytest.raises(UsageError) as caught:
        policy_from_report(report)
    assert caught.value.code == "policy.underivable"


@published.needs_published
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_published_evidence_meets_its_own_policy_but_for_its_weaknesses(case):
    at = datetime.datetime.fromisoformat(case["at"] or "2025-01-01T00:00:00Z")
    report = verify_anything(
        case["tee"],
        unwrap(published.content(case["evidence"])),
        endorsements=sort_endorsements((n, published.content(n)) for n in case["endorsements"]),
        at=at,
        checks=CheckList(),
    )
    if report.claims.get("debug") is True:
        with pytest.raises(NotAcceptableError):
            policy_from_report(report)
        return
    (policy,) = policy_from_report(report).policies.values()
    for field, constraint in policy.alternatives[0].fields():
        reason = field.varies or field.given or field.name == "launch"
        assert not isinstance(constraint, Unchecked) or reason, field.name
    try:
        appraise(policy, report, launch=None, at=at)
        missed = set()
    except NotAcceptableError as error:
        missed = {each.field for each in error.mismatches}
    assert missed <= WEAK


def test_every_default_is_what_a_derived_policy_demands():
    (alternative,) = policy_from_report(snp()).policies["launcher"].alternatives
    for field in FIELDS[Tee.SNP]:
        if field.default is not None:
            assert alternative.constraints[field.name] == AnyOf((field.default,))
