"""What a review finds: one weakness or contradiction a case, in a policy that has no other."""

import dataclasses
import datetime

import pytest

from casemate.evidence import Tee
from casemate.policy import FIELDS, Alternative, Policy, PolicyDocument
from casemate.policy.constraint import (
    AnyOf,
    AtLeast,
    AtMost,
    Bits,
    NoneOf,
    Only,
    Unchecked,
    default_constraint,
)
from casemate.policy.fields import GPU_FIELDS
from casemate.policy.known import PUBLIC_SIGNERS
from casemate.policy.review import Weight, review

AT = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
MEASURED = {Tee.SGX: ("mr_enclave", 32), Tee.TDX: ("mr_td", 48), Tee.SNP: ("measurement", 48)}
FINE = {
    "debug": AnyOf((False,)),
    "launch": AnyOf((b"\x01" * 48,)),
    "advisories": Only(()),
    "revocation": AnyOf(("checked",)),
    "ppid": AnyOf((b"\x02" * 16,)),
    "chip_id": AnyOf((b"\x02" * 64,)),
    "ak": AnyOf((b"\x02" * 32,)),
    "pcr0": AnyOf((b"\x02" * 32,)),
    "mr_signer": AnyOf((b"\x02" * 32,)),
}


def alternative(tee=Tee.SNP, expires=None, **changes):
    """One in which every field says something, so that only what is changed can be found."""
    wanted = {field.name: _anything(field) for field in FIELDS[tee]}
    if tee in MEASURED:
        name, size = MEASURED[tee]
        wanted[name] = AnyOf((b"\x01" * size,))
    wanted |= {name: FINE[name] for name in wanted if name in FINE}
    return Alternative(tee=tee, constraints={**wanted, **changes}, expires=expires)


def _anything(field):
    """Not unchecked, and not judged."""
    return default_constraint(field) or AtLeast(0)


def found(*alternatives, secrets=None):
    document = PolicyDocument(
        policies={"p": Policy(name="p", alternatives=alternatives)}, secrets=secrets or {}
    )
    return [(each.weight, each.field) for each in review(document, at=AT)]


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX, Tee.SNP])
def test_a_strict_policy_has_nothing_to_find(tee):
    assert found(alternative(tee)) == []


ERROR, WARNING, NOTE = Weight.ERROR, Weight.WARNING, Weight.NOTE


@pytest.mark.parametrize(
    ("tee", "changes", "finding"),
    [
        (Tee.SNP, {"debug": AnyOf((True,))}, (ERROR, "debug")),
        (Tee.SNP, {"debug": AnyOf((False,)), "guest_policy": Bits(1 << 19, 0)},
         (ERROR, "guest_policy")),
        (Tee.SNP, {"migration_agent": AnyOf((False,)), "guest_policy": AnyOf((0x40000,))},
         (ERROR, "guest_policy")),
        (Tee.SNP, {"smt_allowed": AnyOf((True,)), "guest_policy": Bits(0, 1 << 16)},
         (ERROR, "guest_policy")),
        (Tee.SGX, {"attributes": Bits(b"\x02" + bytes(15), bytes(16))}, (ERROR, "attributes")),
        (Tee.TDX, {"td_attributes": Bits(b"\x01" + bytes(7), bytes(8))},
         (ERROR, "td_attributes")),
        (Tee.TDX, {"sept_ve_disable": AnyOf((True,)), "td_attributes": AnyOf((bytes(8),))},
         (ERROR, "td_attributes")),
        (Tee.TDX, {"sept_ve_disable": AnyOf((False,))}, (ERROR, "sept_ve_disable")),
        (Tee.TDX, {"mr_td": AnyOf((bytes(48),))}, (ERROR, "mr_td")),
        (Tee.TDX, {"tcb_date": AtLeast("2026-06-02")}, (ERROR, "tcb_date")),
        (Tee.SGX, {"tcb_status": Unchecked("x")}, (ERROR, "tcb_status")),
        (Tee.SGX, {"tcb_status": AnyOf(("UpToDate", "Revoked"))}, (ERROR, "tcb_status")),
        (Tee.SGX, {"tcb_status": AnyOf(("UpToDate", "SWHardeningNeeded"))},
         (WARNING, "tcb_status")),
        (Tee.SGX, {"tcb_out_of_date_days": AtMost(30)}, (WARNING, "tcb_out_of_date_days")),
        (Tee.SGX, {"tcb_out_of_date_days": Unchecked("x")}, (WARNING, "tcb_out_of_date_days")),
        (Tee.SGX, {"advisories": Only(("INTEL-SA-00615",))}, (WARNING, "advisories")),
        (Tee.SGX, {"advisories": NoneOf(("INTEL-SA-00615",))}, (WARNING, "advisories")),
        (Tee.SGX, {"mr_signer": AnyOf((next(iter(PUBLIC_SIGNERS)),))}, (WARNING, "mr_signer")),
        (Tee.SGX, {"mr_enclave": Unchecked("x")}, (WARNING, "mr_enclave")),
        (Tee.SGX, {"launch": Unchecked("x")}, (WARNING, "launch")),
        (Tee.SNP, {"revocation": Unchecked("x")}, (WARNING, "revocation")),
        (Tee.SNP, {"revocation": AnyOf(("checked", "unknown"))}, (WARNING, "revocation")),
        (Tee.SNP, {"migration_agent": AnyOf((True,))}, (WARNING, "migration_agent")),
        (Tee.TPM, {"secure_boot": AnyOf((False,))}, (WARNING, "secure_boot")),
        (Tee.TPM, {"pcr_selection": AnyOf(("0,1,2",)), "pcr7": AnyOf((b"\x01" * 32,)),
                   "pcr0": AtLeast(0), "pcr16": Unchecked("x")}, (ERROR, "pcr7")),
        (Tee.SNP, {"chip_id": Unchecked("x")}, (NOTE, "alternative")),
    ],
)  # fmt: skip
def test_a_weakness_or_contradiction_is_found(tee, changes, finding):
    assert found(alternative(tee, **changes)) == [finding]


def test_an_end_is_told_when_it_is_near_and_when_it_has_passed():
    assert found(alternative(expires=AT)) == [(ERROR, "expires")]
    assert found(alternative(expires=AT + 29 * DAY)) == [(WARNING, "expires")]
    assert found(alternative(expires=AT + 31 * DAY)) == []


def test_a_policy_that_looks_at_next_to_nothing_is_told():
    loose = {
        field.name: Unchecked("x")
        for field in FIELDS[Tee.SNP]
        if field.name not in {"measurement", "debug", "launch", "chip_id", "revocation"}
    }
    assert found(alternative(**loose)) == [(WARNING, "alternative")]


def test_an_alternative_that_another_one_covers_is_needless():
    wide = alternative(svn=None, guest_svn=AtLeast(1))
    narrow = alternative(guest_svn=AtLeast(2))
    assert found(wide, narrow) == [(WARNING, "alternative")]
    assert found(narrow, wide) == [(WARNING, "alternative")]
    assert found(wide, wide) == [(WARNING, "alternative")]
    assert found(wide, alternative(guest_svn=AtMost(0))) == []


def test_a_policy_that_no_secret_names_is_noted():
    document = {"q": ("q",)}
    assert found(alternative(), secrets=document) == [(NOTE, "policy")]
    assert found(alternative(), secrets={"q": ("p",)}) == []


def test_simulation_is_warned_of():
    key = bytes.fromhex("302a300506032b6570032100") + bytes(32)
    wanted = {"root": AnyOf((key,)), "measurement": AnyOf((b"\x01" * 48,))}
    assert found(alternative(Tee.SIMULATED, **wanted)) == [(WARNING, "tee")]


def gpus(**changes):
    fine = {field.name: AtLeast(0) for field in GPU_FIELDS}
    fine |= {"count": AnyOf((2,)), "debug": AnyOf((False,)), "revocation": AnyOf(("checked",))}
    return dataclasses.replace(alternative(), gpus=fine | changes)


def test_gpus_are_looked_at_too():
    assert found(gpus()) == []
    assert found(gpus(debug=AnyOf((True,)))) == [(ERROR, "gpus.debug")]
    assert found(gpus(revocation=Unchecked("x"))) == [(WARNING, "gpus.revocation")]
    assert found(gpus(count=AnyOf((0,)))) == [(ERROR, "gpus.count")]
    assert found(gpus(count=AtLeast(17))) == [(ERROR, "gpus.count")]
    assert found(gpus(), alternative()) == []
    assert found(gpus(), gpus(count=AtLeast(2))) == [(WARNING, "alternative")]


def together(one, other):
    policies = {
        name: Policy(name=name, alternatives=alternatives)
        for name, alternatives in (("a", one), ("b", other))
    }
    document = PolicyDocument(policies=policies, secrets={"s": ("a", "b"), "t": ("a",)})
    return [(each.weight, each.where) for each in review(document, at=AT)]


def test_a_secret_that_nobody_can_ever_get_is_found():
    never = [(ERROR, "secrets.s")]
    one, other = alternative(vmpl=AnyOf((0,))), alternative(vmpl=AnyOf((1,)))
    assert together([one], [one]) == []
    assert together([one], [other]) == never
    assert together([one, other], [other]) == []
    assert together([alternative(Tee.TDX)], [alternative(Tee.SGX)]) == never
    assert together([gpus()], [alternative()]) == never
    assert together([gpus()], [gpus(count=AnyOf((3,)))]) == never
