"""Putting a load on a server: what is counted, what a failure is, and what another try is."""

import dataclasses
import threading

import grpc
import numpy as np
import pytest
from tests.client.test_predict import IDENTITY, PIXELS, Peer

from casemate.cli.bench import histogram
from casemate.client import PinnedCertificate, Question
from casemate.client.load import WARM_UP, Load, put_load
from casemate.errors import UnavailableError


@pytest.fixture
def peer():
    made = Peer()
    yield made
    made.server.stop(None)


def load(peer, **options):
    question = Question(
        server=f"localhost:{peer.port}", trust=PinnedCertificate(pem=IDENTITY.certificate),
        model="resnet", pixels=PIXELS, timeout=5.0,
    )  # fmt: skip
    pixels = options.pop("pixels", None)
    if pixels is not None:
        question = dataclasses.replace(question, pixels=pixels)
    return Load(question=question, **{"clients": 3, "rounds": 4, **options})


def test_every_round_counts_and_warm_up_does_not(peer):
    answered = threading.Semaphore(0)
    measured = put_load(load(peer), answered.release)
    assert len(measured.latencies) == 12
    assert len(peer.seen) == 1 + 3 * (WARM_UP + 4)
    assert measured.failures == {}
    assert measured.latencies == tuple(sorted(measured.latencies))
    assert measured.percentile(0) == measured.latencies[0]
    assert measured.percentile(100) == measured.latencies[-1]
    assert measured.rate == pytest.approx(12 / measured.seconds)
    assert sum(answered.acquire(blocking=False) for _ in range(20)) == 12


def test_what_is_wrong_for_all_is_said_before_any_load(peer):
    peer.code, peer.details = grpc.StatusCode.UNAVAILABLE, "busy"
    with pytest.raises(UnavailableError):
        put_load(load(peer))
    assert len(peer.seen) == 1


def test_failures_are_counted_by_their_reason(peer, monkeypatch):
    handle = Peer._handle

    def every_third(self, content, context):
        if len(self.seen) % 3 == 2:
            self.seen.append(content)
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return handle(self, content, context)

    monkeypatch.setattr(Peer, "_handle", every_third)
    patched = Peer()
    try:
        measured = put_load(load(patched, clients=1, rounds=9))
    finally:
        patched.server.stop(None)
    assert measured.failures == {"client.server-failed": 3}
    assert len(measured.latencies) == 6


@pytest.mark.parametrize(("attempts", "failures"), [(1, {"client.unreachable": 1}), (3, {})])
def test_another_try_is_made_where_it_is_asked_for(peer, monkeypatch, attempts, failures):
    handle = Peer._handle

    def once_unavailable(self, content, context):
        if len(self.seen) == 1 + WARM_UP:
            self.seen.append(content)
            context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        return handle(self, content, context)

    monkeypatch.setattr(Peer, "_handle", once_unavailable)
    patched = Peer()
    try:
        picture = np.zeros((1, 224, 224, 3), np.float32)  # larger than gRPC keeps by itself
        measured = put_load(load(patched, clients=1, rounds=3, attempts=attempts, pixels=picture))
    finally:
        patched.server.stop(None)
    assert measured.failures == failures


def test_it_ends_in_time(peer):
    measured = put_load(load(peer, clients=2, rounds=10**6, seconds=0.3))
    assert 0 < len(measured.latencies) < 10**6
    assert measured.seconds < 5


def test_the_histogram_has_every_answer_once():
    latencies = tuple(sorted([0.001] * 50 + [0.002] * 40 + [0.5]))
    lines = histogram(latencies)
    counts = [int(line.split(" ms ")[1].split()[0]) for line in lines]
    assert sum(counts) == 91
    assert histogram((0.001,))
