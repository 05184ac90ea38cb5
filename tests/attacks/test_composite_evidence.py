"""Machines with GPUs, against a broker that counts them: what counts as one, and what doesn't.

The CPU is simulated, the GPUs are of authorities of our own; all else is the real thing.
"""

import copy
import datetime
import functools
from dataclasses import dataclass, replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.attested import (
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)

from casemate.evidence import Evidence, Tee
from casemate.evidence.composite import encode_composite_evidence
from casemate.policy import AnyOf, AtLeast, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.fields import GPU_FIELDS
from casemate.project.programs import pick_port
from casemate.tee.composite import CompositeTee
from casemate.types import ReportData, Sha384
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.nvidia import NvidiaDevice
from casemate_testkit.pki import DAY

TODAY = datetime.datetime.now(datetime.UTC)


@functools.cache
def devices():
    """Three GPUs of one maker."""
    first = NvidiaDevice(until=TODAY + 30 * DAY)
    return first, first.sibling(), first.sibling()


@dataclass(frozen=True)
class Gpu:
    """A GPU that answers the nonce that it is asked, or another."""

    device: NvidiaDevice
    nonce: bytes | None = None
    more: tuple[bytes, ...] = ()

    def attest(self, report_data: ReportData) -> Evidence:
        nonce = bytes(report_data)[:32] if self.nonce is None else self.nonce
        chain = b"".join(each.public_bytes(Encoding.PEM) for each in self.device.chain)
        return Evidence(
            tee=Tee.NVIDIA, data=self.device.report(nonce=nonce), endorsements=(chain, *self.more)
        )


@dataclass(frozen=True)
class Replaying:
    """A CPU whose evidence was made on another occasion."""

    bound: ReportData

    def attest(self, report_data: ReportData) -> Evidence:
        return launcher_tee().attest(self.bound)


def machine(*gpus, cpu=None):
    return CompositeTee(cpu or launcher_tee(), gpus)


def gpu_rules(**changes):
    rules = {
        field.name: default_constraint(field) or Unchecked("another test's matter")
        for field in GPU_FIELDS
    }
    return rules | {"count": AnyOf((2,)), "debug": AnyOf((False,)), **changes}


def policy(contract, **changes):
    """For simulated launchers with two GPUs."""
    document = policy_document(contract)
    (one,) = document.policies.values()
    (alternative,) = one.alternatives
    wanted = replace(alternative, gpus=gpu_rules(**changes))
    return replace(document, policies={one.name: replace(one, alternatives=(wanted,))})


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A broker for machines with two GPUs, which has their manifests."""
    folder = tmp_path_factory.mktemp("broker")
    with _running(folder, policy) as running:
        yield running


def _running(folder, make_policy):
    first = devices()[0]
    files = []
    for kind in ("driver", "vbios"):
        path = folder / f"{kind}.xml"
        path.write_bytes(first.rim(kind))
        files.append(path)
    (home := folder / "home").mkdir()
    contract = contract_at(port := pick_port(0))
    return running_broker(
        home, contract=contract, document=make_policy(contract), port=port,
        vendors=VendorRoots(
            nvidia_device=fingerprint(first.root.certificate),
            nvidia_rim=fingerprint(first.rim_root.certificate),
        ),
        endorsements=tuple(files),
    )  # fmt: skip


def test_a_machine_with_its_gpus_gets_its_secrets(broker):
    one, two, _ = devices()
    assert fetched(broker.contract, machine(Gpu(one), Gpu(two)), timeout=5.0) == SECRETS
    told = broker.lines("released")[0]["claims"]
    assert told["gpus[1].device"] == str(fingerprint(two.device.certificate))


def test_a_report_for_another_nonce_counts_for_nothing(broker):
    one, two, _ = devices()
    stale = machine(Gpu(one), Gpu(two, nonce=b"\x11" * 32))
    assert refusal_of(broker.contract, stale) == "composite.binding"


def test_one_gpu_does_not_count_twice(broker):
    one, _, _ = devices()
    assert refusal_of(broker.contract, machine(Gpu(one), Gpu(one))) == "composite.duplicate"


def test_a_gpu_with_a_new_leaf_is_the_same_gpu(broker):
    """A device issues itself a leaf for each firmware."""
    one, _, _ = devices()
    again = copy.copy(one)
    again.leaf = one.device.issue(
        "GH100 A01 GSP FMC LF", ca=False, end=one.until,
        extensions={
            each.oid.dotted_string: each.value.value
            for each in one.leaf.certificate.extensions
            if each.oid.dotted_string == one.fwid_oid
        },
    )  # fmt: skip
    assert refusal_of(broker.contract, machine(Gpu(one), Gpu(again))) == "composite.duplicate"


def test_a_gpu_that_is_left_out_is_missed(broker):
    one, _, _ = devices()
    assert refusal_of(broker.contract, machine(Gpu(one))) == "policy.mismatch"
    assert refusal_of(broker.contract, launcher_tee()) == "policy.mismatch"


def test_a_gpu_too_many_is_noticed(broker):
    assert refusal_of(broker.contract, machine(*map(Gpu, devices()))) == "policy.mismatch"


def test_a_cpu_of_another_occasion_does_not_vouch_for_these_gpus(broker):
    one, two, _ = devices()
    other = ReportData(b"\x11" * 32 + bytes(32))
    swapped = machine(Gpu(one), Gpu(two), cpu=Replaying(other))
    assert refusal_of(broker.contract, swapped) == "composite.binding"
    all_of_it = machine(Gpu(one, nonce=b"\x11" * 32), Gpu(two, nonce=b"\x11" * 32),
                        cpu=Replaying(other))  # fmt: skip
    assert refusal_of(broker.contract, all_of_it) == "binding.report-data"


def test_a_gpu_of_another_maker_is_refused(broker):
    one, _, _ = devices()
    stranger = NvidiaDevice(until=TODAY + 30 * DAY)
    assert refusal_of(broker.contract, machine(Gpu(one), Gpu(stranger))) == "nvidia.root"


def test_a_gpu_in_the_cpus_place_is_no_machine(broker):
    one, two, _ = devices()

    class Two:
        def attest(self, report_data):
            members = [Gpu(each).attest(report_data) for each in (one, two)]
            return Evidence(tee=Tee.COMPOSITE, data=encode_composite_evidence(members))

    assert refusal_of(broker.contract, Two()) == "composite.malformed"


def test_a_member_does_not_say_what_changes_with_time(broker):
    one, two, _ = devices()
    empty = one.root.revocation_list(start=TODAY - DAY, end=TODAY + DAY)
    more = (empty.public_bytes(Encoding.DER),)
    assert refusal_of(broker.contract, machine(Gpu(one), Gpu(two, more=more))) == (
        "evidence.endorsements"
    )


def test_other_code_on_the_cpu_gets_nothing_for_its_gpus(broker):
    one, two, _ = devices()
    other = launcher_tee(measurement=Sha384(bytes(48)))
    assert refusal_of(broker.contract, machine(Gpu(one), Gpu(two), cpu=other)) == "policy.mismatch"


@pytest.mark.parametrize(
    "rules",
    [
        {"driver_version": AtLeast("999")},
        {"device": AnyOf((bytes(fingerprint(devices()[0].device.certificate)),))},
        {"revocation": AnyOf(("checked",))},
    ],
)
def test_every_gpu_must_be_as_the_policy_says(tmp_path, rules):
    one, two, _ = devices()
    with _running(tmp_path, lambda contract: policy(contract, **rules)) as running:
        assert refusal_of(running.contract, machine(Gpu(one), Gpu(two))) == "policy.mismatch"


def test_a_policy_that_is_silent_about_gpus_accepts_none(tmp_path):
    one, two, _ = devices()
    with _running(tmp_path, policy_document) as running:
        assert refusal_of(running.contract, machine(Gpu(one), Gpu(two))) == "policy.mismatch"
        assert fetched(running.contract, launcher_tee(), timeout=5.0) == SECRETS
