"""Launchers whose evidence is hardware's, against a broker: what they may say, and what they can't.

The hardware is an SEV-SNP machine of an authority of our own; all else is the real thing.
"""

import datetime
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.attested import (
    SECRETS,
    contract_at,
    fetched,
    policy_document,
    refusal_of,
    running_broker,
)

from casemate.evidence import Evidence, Tee
from casemate.policy import AnyOf, Policy, PolicyDocument, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS
from casemate.project.programs import pick_port
from casemate.types import ReportData
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.pki import DAY
from casemate_testkit.snp import SnpPlatform

TODAY = datetime.datetime.now(datetime.UTC)
MACHINE = SnpPlatform(until=TODAY + 30 * DAY)
ROOTS = VendorRoots(amd={"Milan": fingerprint(MACHINE.ark.certificate)})
MEASURED = b"\x22" * 48
CHAIN = tuple(each.public_bytes(Encoding.DER) for each in MACHINE.certificates)


@dataclass(frozen=True)
class Guest:
    """A guest on a machine of ours, which sends its certificates along."""

    machine: SnpPlatform = MACHINE
    measurement: bytes = MEASURED
    sends: tuple[bytes, ...] = CHAIN
    bound: bytes | None = None

    def attest(self, report_data: ReportData) -> Evidence:
        bound = bytes(report_data) if self.bound is None else self.bound
        report = self.machine.report(x050=bound, x090=self.measurement)
        return Evidence(tee=Tee.SNP, data=report, endorsements=self.sends)


def policy(contract, **changes):
    """A policy for guests of `MEASURED`."""
    constraints = {
        field.name: default_constraint(field) or Unchecked("another test's matter")
        for field in FIELDS[Tee.SNP]
    }
    constraints |= {
        "measurement": AnyOf((MEASURED,)),
        "debug": AnyOf((False,)),
        "launch": AnyOf((bytes(contract.digest()),)),
        **changes,
    }
    alternative = Alternative(tee=Tee.SNP, constraints=constraints)
    return PolicyDocument(
        policies={"launcher": Policy(name="launcher", alternatives=(alternative,))},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )


@pytest.fixture
def broker(tmp_path):
    """A broker for such guests, without endorsements of its own."""
    contract = contract_at(port := pick_port(0))
    with running_broker(
        tmp_path, contract=contract, document=policy(contract), port=port, vendors=ROOTS
    ) as running:
        yield running


def test_a_guest_gets_its_secrets(broker):
    assert fetched(broker.contract, Guest(), timeout=3.0) == SECRETS
    (line,) = broker.lines("released")
    assert line["claims"]["tee"] == "snp"
    assert line["claims"]["chip_id"] == MACHINE.chip.hex()


def test_other_code_gets_nothing(broker):
    assert refusal_of(broker.contract, Guest(measurement=bytes(48))) == "policy.mismatch"
    assert broker.released() == []


def test_another_contract_gets_nothing(broker):
    other = replace(broker.contract, argv=("/bin/server", "--port=9001"))
    assert refusal_of(other, Guest()) == "policy.mismatch"


def test_a_report_of_another_occasion_gets_nothing(broker):
    assert refusal_of(broker.contract, Guest(bound=b"\x11" * 64)) == "binding.report-data"


def test_a_machine_under_another_root_gets_nothing(broker):
    other = SnpPlatform(until=TODAY + 30 * DAY)
    chain = tuple(each.public_bytes(Encoding.DER) for each in other.certificates)
    assert refusal_of(broker.contract, Guest(machine=other, sends=chain)) == "snp.root"


def test_a_machine_with_certificates_that_have_ended_gets_nothing(broker):
    old = SnpPlatform(until=TODAY - DAY, root=MACHINE.ark)
    chain = tuple(each.public_bytes(Encoding.DER) for each in old.certificates)
    assert refusal_of(broker.contract, Guest(machine=old, sends=chain)) == "snp.expired"


def test_a_guest_without_certificates_can_not_be_judged(broker):
    assert refusal_of(broker.contract, Guest(sends=())) == "snp.no-certificate"


def test_who_is_judged_does_not_say_who_is_revoked(broker):
    """An old list, of before a revocation, may still be valid."""
    empty = MACHINE.ark.revocation_list(start=TODAY - DAY, end=TODAY + DAY)
    sends = (*CHAIN, empty.public_bytes(Encoding.DER))
    assert refusal_of(broker.contract, Guest(sends=sends)) == "evidence.endorsements"


def test_what_is_sent_along_must_be_endorsements(broker):
    assert refusal_of(broker.contract, Guest(sends=(*CHAIN, b"?"))) == "endorsements.unknown"


@pytest.mark.parametrize(("revoked", "code"), [(False, None), (True, "snp.revoked")])
def test_the_brokers_own_lists_count(tmp_path, revoked, code):
    contract = contract_at(port := pick_port(0))
    amd_list = tmp_path / "amd.crl"
    names = (MACHINE.ask.certificate,) if revoked else ()
    made = MACHINE.ark.revocation_list(*names, start=TODAY - DAY, end=TODAY + DAY)
    amd_list.write_bytes(made.public_bytes(Encoding.DER))
    (folder := tmp_path / "broker").mkdir()
    document = policy(contract, revocation=AnyOf(("checked",)))
    with running_broker(
        folder, contract=contract, document=document, port=port, vendors=ROOTS,
        endorsements=(amd_list,),
    ):  # fmt: skip
        if code is None:
            assert fetched(contract, Guest(), timeout=3.0) == SECRETS
        else:
            assert refusal_of(contract, Guest()) == code


def test_a_broker_of_simulated_launchers_takes_no_hardware_for_them(tmp_path):
    contract = contract_at(port := pick_port(0))
    document = policy_document(contract)
    with running_broker(tmp_path, contract=contract, document=document, port=port, vendors=ROOTS):
        assert refusal_of(contract, Guest()) == "policy.mismatch"
