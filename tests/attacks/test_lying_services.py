"""A broker that asks AMD's service about launchers' machines, and a service that lies.

The service is ours, over real HTTP, and so are the machines' authorities; all else is the real
thing. Launchers send no certificates along: the service alone says whose chip it is.
"""

import datetime
import time
from dataclasses import dataclass, replace

import pytest
from tests.attacks.test_hardware_on_channels import Guest, policy
from tests.support.attested import SECRETS, contract_at, fetched, refusal_of, running_broker

from casemate.collateral.background import BackgroundCollateral, Patience
from casemate.collateral.cache import CollateralCache
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.endorsements.collection import Endorsements
from casemate.evidence import Evidence, Tee
from casemate.policy import AnyOf, Policy, PolicyDocument, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS
from casemate.project.programs import pick_port
from casemate.types import ReportData
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.dcap import DcapPlatform, Tcb, TcbLevel
from casemate_testkit.pki import DAY
from casemate_testkit.services.kds import FakeKds
from casemate_testkit.services.pccs import FakePccs
from casemate_testkit.services.web import Fault
from casemate_testkit.snp import SnpPlatform

TODAY = datetime.datetime.now(datetime.UTC)
MACHINE, FORGED = SnpPlatform(until=TODAY + 90 * DAY), SnpPlatform(until=TODAY + 90 * DAY)
ROOTS = VendorRoots(amd={"Milan": fingerprint(MACHINE.ark.certificate)})
GUEST = Guest(machine=MACHINE, sends=())


@pytest.fixture
def kds():
    with FakeKds(MACHINE) as running:
        running.lists_start, running.lists_end = TODAY - DAY, TODAY + 20 * DAY
        yield running


@pytest.fixture
def clock():
    return [TODAY]


@pytest.fixture
def broker(tmp_path, kds, clock):
    """A broker that demands that revocation was looked up."""
    cache = CollateralCache(
        tmp_path / "cache", web=Web(seconds=1, patience=1, attempts=1),
        services=Services(kds=kds.url), roots=ROOTS, clock=lambda: clock[0],
    )  # fmt: skip
    contract = contract_at(port := pick_port(0))
    (folder := tmp_path / "broker").mkdir()
    patience = Patience(answer=2.0, failure=0.1)
    with (
        BackgroundCollateral(
            cache, given=Endorsements(), clock=lambda: clock[0], patience=patience
        ) as knowledge,
        running_broker(
            folder, contract=contract, document=policy(contract, revocation=AnyOf(("checked",))),
            port=port, vendors=ROOTS, knowledge=knowledge,
        ) as running,
    ):  # fmt: skip
        yield running


def refused(broker, code, guest=GUEST):
    assert refusal_of(broker.contract, guest) == code
    assert broker.released() == []


def test_what_amd_says_lets_a_launcher_in(broker, kds):
    assert fetched(broker.contract, GUEST, timeout=5.0) == SECRETS
    assert len(kds.seen) == 4
    assert fetched(broker.contract, GUEST, timeout=5.0) == SECRETS
    assert len(kds.seen) == 4


def test_a_service_that_vouches_for_a_forged_chip(broker, kds):
    kds.machine = FORGED
    refused(broker, "collateral.root", Guest(machine=FORGED, sends=()))


def test_a_service_that_gives_another_chips_certificate(broker, kds):
    other = SnpPlatform(chip=bytes(64), root=MACHINE.ark, until=TODAY + 90 * DAY)
    extensions = {
        each.oid.dotted_string: each.value.value
        for each in other.vcek.certificate.extensions
        if hasattr(each.value, "value")
    }
    kds.leaf = MACHINE.ask.issue("SEV-VCEK", ca=False, extensions=extensions,
                                 end=TODAY + 90 * DAY).certificate  # fmt: skip
    refused(broker, "collateral.another")


def test_a_list_that_somebody_else_signed(broker, kds):
    kds.list_signer = FORGED.ark
    refused(broker, "collateral.signature")


def test_a_list_that_has_ended(broker, kds):
    kds.lists_end = TODAY - DAY / 2
    refused(broker, "collateral.outdated")


def test_a_service_that_withholds_the_list(broker, kds):
    kds.unavailable = True
    refused(broker, "collateral.refused")


def test_what_amd_revoked_stays_revoked(broker, kds, clock):
    """Whoever controls the service can't turn time back to before the revocation."""
    kds.revoked = (MACHINE.ask.certificate,)
    refused(broker, "snp.revoked")
    kds.revoked = ()
    kds.lists_start, kds.lists_end = TODAY - 2 * DAY, TODAY + 60 * DAY
    refused(broker, "snp.revoked")
    clock[0] = TODAY + 21 * DAY  # the list that is known has ended
    refused(broker, "collateral.rollback")


@pytest.mark.parametrize("fault", [Fault.OUTAGE, Fault.HANG, Fault.DRIP_HEADERS, Fault.HUGE])
def test_a_service_in_trouble_harms_no_launcher_that_is_known(broker, kds, fault):
    assert fetched(broker.contract, GUEST, timeout=5.0) == SECRETS
    kds.fault = fault
    stranger = SnpPlatform(chip=bytes((7,)) * 64, root=MACHINE.ark, until=TODAY + 90 * DAY)
    start = time.monotonic()
    code = refusal_of(broker.contract, Guest(machine=stranger, sends=()))
    assert code in ("collateral.unreachable", "collateral.pending")
    assert fetched(broker.contract, GUEST, timeout=5.0) == SECRETS
    assert time.monotonic() - start < 5


# The same for Intel's


@pytest.fixture
def pccs():
    platform = DcapPlatform(until=TODAY + 90 * DAY)
    with FakePccs(platform) as running:
        running.tcb = Tcb(start=TODAY - DAY, end=TODAY + 29 * DAY)
        running.lists_start, running.lists_end = TODAY - DAY, TODAY + 20 * DAY
        yield running


@dataclass(frozen=True)
class TrustDomain:
    platform: DcapPlatform

    def attest(self, report_data: ReportData) -> Evidence:
        return Evidence(tee=Tee.TDX, data=self.platform.td_quote(report_data=bytes(report_data)))


@pytest.fixture
def intels(tmp_path, pccs):
    """A broker that takes trust domains of one measurement, and up-to-date platforms alone."""
    platform = pccs.platform
    roots = VendorRoots(intel=platform.root_der)
    cache = CollateralCache(
        tmp_path / "cache", web=Web(seconds=1, patience=1, attempts=1),
        services=Services(pccs=pccs.url), roots=roots,
    )  # fmt: skip
    contract = contract_at(port := pick_port(0))
    constraints = {
        field.name: default_constraint(field) or Unchecked("another test's matter")
        for field in FIELDS[Tee.TDX]
    } | {
        "mr_td": AnyOf((b"\x22" * 48,)),
        "debug": AnyOf((False,)),
        "launch": AnyOf((bytes(contract.digest()),)),
    }
    alternative = Alternative(tee=Tee.TDX, constraints=constraints)
    document = PolicyDocument(
        policies={"launcher": Policy(name="launcher", alternatives=(alternative,))},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )
    (folder := tmp_path / "broker").mkdir()
    with (
        BackgroundCollateral(
            cache, given=Endorsements(), patience=Patience(answer=3.0, failure=0.1)
        ) as knowledge,
        running_broker(
            folder, contract=contract, document=document, port=port, vendors=roots,
            knowledge=knowledge,
        ) as running,
    ):  # fmt: skip
        yield running, TrustDomain(platform)


def test_what_intel_says_lets_a_trust_domain_in(intels, pccs):
    broker, guest = intels
    assert fetched(broker.contract, guest, timeout=5.0) == SECRETS
    (line,) = broker.lines("released")
    assert line["claims"]["tcb_status"] == "UpToDate"


def test_a_pccs_that_calls_a_platform_up_to_date(intels, pccs):
    """Whoever runs the PCCS changes a word in what Intel signed."""
    pccs.tcb = replace(pccs.tcb, levels=(TcbLevel(svn=6), TcbLevel(svn=5, status="OutOfDate")))
    broker, guest = intels
    pccs.text = ("OutOfDate", "UpToDate")
    refused(broker, "collateral.signature", guest)


def test_a_platform_that_intel_calls_out_of_date(intels, pccs):
    pccs.tcb = replace(pccs.tcb, levels=(TcbLevel(svn=6), TcbLevel(svn=5, status="OutOfDate")))
    broker, guest = intels
    refused(broker, "policy.mismatch", guest)


def test_a_forged_platform_leads_to_no_question(intels, pccs):
    broker, _ = intels
    refused(broker, "dcap.root", TrustDomain(DcapPlatform(until=TODAY + 90 * DAY)))
    assert pccs.seen == []
