"""What a broker knows of hardware: at once what it has, soon what it lacks, and never for long."""

import os
import threading
import time
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from casemate.collateral.background import BackgroundCollateral, Patience
from casemate.collateral.cache import CollateralCache
from casemate.collateral.gather import needs
from casemate.collateral.wanted import Services
from casemate.collateral.web import Web
from casemate.endorsements.collection import Endorsements
from casemate.errors import InternalError, UnavailableError
from casemate.evidence import Evidence, Tee
from casemate.verify import TrustAnchors, verify_evidence
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.pki import DAY, NOW
from casemate_testkit.services.kds import FakeKds
from casemate_testkit.services.web import Fault
from casemate_testkit.snp import SnpPlatform

MACHINE = SnpPlatform()
ROOTS = VendorRoots(amd={"Milan": fingerprint(MACHINE.ark.certificate)})
ANCHORS = TrustAnchors(vendors=ROOTS)
EVIDENCE = Evidence(tee=Tee.SNP, data=MACHINE.report())
PATIENT = Patience(answer=5.0, failure=1.5, round=0.1)
HASTY = replace(PATIENT, answer=0.5)
CALM = replace(PATIENT, answer=2.0)


@pytest.fixture
def kds():
    with FakeKds(MACHINE) as running:
        yield running


@pytest.fixture
def clock():
    return [NOW]


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def patience():
    return PATIENT


hasty = pytest.mark.parametrize("patience", [HASTY], ids=["hasty"])
calm = pytest.mark.parametrize("patience", [CALM], ids=["calm"])


@pytest.fixture
def known(tmp_path, kds, clock, warnings, patience):
    cache = CollateralCache(
        tmp_path, web=Web(seconds=3, patience=3, attempts=1), services=Services(kds=kds.url),
        roots=ROOTS, clock=lambda: clock[0],
    )  # fmt: skip
    with BackgroundCollateral(
        cache, given=Endorsements(), clock=lambda: clock[0], patience=patience, warn=warnings.append
    ) as background:
        background.cache = cache
        yield background


def refusal(known, evidence=EVIDENCE):
    with pytest.raises(UnavailableError) as caught:
        known(evidence)
    return caught.value.code


def until(true):
    end = time.monotonic() + 10
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    assert true()


def test_what_a_vendor_says_lets_evidence_be_verified(known):
    report = verify_evidence(EVIDENCE, anchors=ANCHORS, known=known(EVIDENCE))
    assert report.claims["revocation"] == "checked"


def test_what_was_sent_along_isnt_asked_for(known, kds):
    sent = tuple(each.public_bytes(Encoding.DER) for each in MACHINE.certificates)
    evidence = Evidence(tee=Tee.SNP, data=MACHINE.report(), endorsements=sent)
    found = known(evidence)
    assert found.endorsements.certificates == ()
    assert all(question.endswith(("/crl", "/cert_chain")) for question in kds.seen)
    assert verify_evidence(evidence, anchors=ANCHORS, known=found)


def warm(known):
    """Have everything in the cache that `EVIDENCE` needs."""
    for wanted in needs(EVIDENCE.tee, EVIDENCE.data, Endorsements()):
        known.cache.get(wanted)


@hasty
def test_a_slow_service_holds_nobody_up_and_the_next_attempt_finds_the_answer(known, kds):
    kds.delay = 1.5
    start = time.monotonic()
    assert refusal(known) == "collateral.pending"
    assert time.monotonic() - start < 1.5
    until(lambda: not known._questions)
    assert known(EVIDENCE)


def test_what_nobody_could_say_isnt_asked_again_at_once(known, kds, warnings):
    kds.fault = Fault.OUTAGE
    assert refusal(known) == "collateral.unreachable"
    until(lambda: all(each.failed for each in known._questions.values()))
    asked = len(kds.seen)
    assert refusal(known) == "collateral.unreachable"
    assert len(kds.seen) == asked
    assert "collateral.unreachable" in warnings[0]
    kds.fault = None
    time.sleep(PATIENT.failure)
    assert known(EVIDENCE)


@calm
def test_strangers_platforms_keep_nobody_out_whose_platform_is_known(known, kds):
    warm(known)
    kds.fault = Fault.HANG
    strangers = [
        Evidence(tee=Tee.SNP, data=MACHINE.report(x1a0=bytes((number,)) * 64))
        for number in range(1, 41)
    ]
    refused, patient = [], []

    def ask(evidence):
        start = time.monotonic()
        refused.append(refusal(known, evidence))
        if time.monotonic() - start >= CALM.answer:
            patient.append(evidence)

    threads = [threading.Thread(target=ask, args=(each,)) for each in strangers]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    assert known(EVIDENCE)
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 5
    assert set(refused) == {"collateral.pending"}
    assert len(patient) < len(strangers) / 2, "few wait; the others are told at once"
    assert len(known._questions) <= 32
    assert len(kds.seen) <= 8


def test_what_is_due_is_fetched_beside(known, kds, clock):
    known(EVIDENCE)
    (crl,) = [part for part in known.cache.parts() if "crl" in part.wanted.name]
    kds.lists_start, kds.lists_end = NOW + DAY, NOW + 60 * DAY
    for each in known.cache._folder.glob("*.lock"):
        os.utime(each, (0, 0))  # the last question lies back, as it does for the clock
    clock[0] = crl.validity.end - DAY / 2
    until(lambda: known.cache.look(crl.wanted).validity.end == NOW + 60 * DAY)


def test_it_ends_at_once_although_a_service_doesnt_answer(tmp_path, kds):
    kds.fault = Fault.HANG
    cache = CollateralCache(
        tmp_path, web=Web(), services=Services(kds=kds.url), roots=ROOTS, clock=lambda: NOW
    )
    start = time.monotonic()
    with BackgroundCollateral(
        cache, given=Endorsements(), clock=lambda: NOW, patience=HASTY
    ) as known:
        assert refusal(known) == "collateral.pending"
    assert time.monotonic() - start < 3


class Mistaken:
    """A part with a mistake in it."""

    name = "mistaken"

    def service(self, services):
        return services.kds

    def fetch(self, web, services):
        raise KeyError("x")

    def check(self, parts, roots, at):
        raise AssertionError("there's nothing to check")


def test_a_mistake_leaves_no_question_open(known):
    with pytest.raises(InternalError) as caught:
        known.get(Mistaken(), time.monotonic() + 5)
    assert caught.value.code == "collateral.internal"
    assert known(EVIDENCE)
    assert all(thread.is_alive() for thread in known._threads)
