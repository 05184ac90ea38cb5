"""Launchers that are let in, and then say half a request or read no answer (P29).

What holds: they hold up nobody else's release, and the broker's memory stays bounded.
"""

import contextlib
import resource
import threading
import time

import grpc
import pytest
from tests.support import http2
from tests.support.attested import (
    BROKER_KEY,
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    running_broker,
    wait_until,
)
from tests.support.malicious_peer import ACCEPTED, attacking

from casemate.broker.run import _MAX_UNREAD
from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty, Limits
from casemate.project.programs import pick_port
from casemate.protocol.key_broker import METHOD, encode_request
from casemate.verify import TrustAnchors

CALLS = 64
"""Far more than a broker has threads for one channel."""
CROWD = 24
LIMITS = Limits(max_connections=CROWD)


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path, limits=LIMITS) as broker:
        yield broker


@contextlib.contextmanager
def let_in(broker):
    """A peer whose channel the broker has opened, and that may now say what it likes."""
    with attacking(broker.port) as peer:
        peer.read_frame()
        peer.present(launcher_tee(), launch=broker.contract.digest())
        assert peer.read_frame() == (ACCEPTED, b"")
        yield peer


def others_get_their_keys(broker, seconds=5.0):
    began = time.monotonic()
    for _ in range(3):
        assert fetched(broker.contract) == SECRETS, "it had to try again"
    assert time.monotonic() - began < seconds


def test_half_said_requests_of_a_client_of_grpc_leave_room_for_others(broker):
    party = ChannelParty(
        attester=launcher_tee(),
        anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,)),
        launch=broker.contract.digest(),
    )
    stop = threading.Event()

    def half_said():
        stop.wait(60)
        yield from ()

    with (
        attested_tunnel("127.0.0.1", broker.port, party=party, judge=lambda peer: peer) as tunnel,
        grpc.insecure_channel(tunnel.target) as connection,
    ):
        stalled = [connection.stream_unary(METHOD).future(half_said()) for _ in range(CALLS)]
        try:
            time.sleep(0.5)
            others_get_their_keys(broker)
            assert not stalled[0].done(), "nobody stalls here"
        finally:
            stop.set()


@pytest.mark.parametrize("says", ["half a call", "half a message", "calls that it takes back"])
def test_half_said_requests_past_all_settings_leave_room_for_others(broker, says):
    """This client doesn't even wait to be told how many calls it may have."""
    said = http2.hello()
    for stream in range(1, 2 * CALLS, 2):
        said += http2.begun_call(stream, METHOD)
        if says == "half a message":
            said += http2.frame(http2.DATA, 0, stream, b"\x00\x00\x00\x10\x00half")
        elif says == "calls that it takes back":
            said += http2.frame(http2.RST_STREAM, 0, stream, bytes(4))
    with let_in(broker) as peer:
        peer.send(said)
        time.sleep(0.5)
        others_get_their_keys(broker)


def test_as_many_launchers_that_stall_as_there_are_connections_leave_room_for_others(broker):
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            peer = stack.enter_context(let_in(broker))
            peer.send(http2.hello() + http2.begun_call(1, METHOD))
        others_get_their_keys(broker)
    gave_way = [line for line in broker.lines("closed") if "error" in line]
    assert {line["error"]["code"] for line in gave_way} == {"channel.crowded"}


def test_as_many_idle_launchers_as_there_are_connections_leave_room_for_others(broker):
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(let_in(broker))
        others_get_their_keys(broker)


def test_answers_that_nobody_reads_leave_room_for_others_and_are_given_up(tmp_path):
    """Each holds memory of the broker's; the one that has been on its way longest makes room."""
    large = {f"large_{number}": bytes(1 << 20) for number in range(12)}
    secrets, port = {**SECRETS, **large}, pick_port(0)
    contract = contract_at(port)
    document = policy_document(contract, secrets=dict.fromkeys(secrets, ("launcher",)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (
        running_broker(
            tmp_path, contract=contract, document=document, secrets=secrets, port=port
        ) as broker,
        contextlib.ExitStack() as stack,
    ):
        unread = []
        for number in range(_MAX_UNREAD // (12 << 20) + 24):
            peer = stack.enter_context(let_in(broker))
            peer.send(http2.hello(window=0) + http2.begun_call(1, METHOD))
            peer.send(http2.message(1, encode_request(tuple(large))))
            wait_until(lambda many=number + 1: len(broker.lines("released")) == many)
            unread.append(peer)
        others_get_their_keys(broker)
        assert ends(unread[0])
        assert not ends(unread[-1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert peak << 10 < 3 * _MAX_UNREAD + (64 << 20), "Python has a copy of its own, and gRPC"


def ends(peer):
    """Whether the broker gives a call up within a second."""
    peer.network.settimeout(1)
    rest = b""
    with contextlib.suppress(TimeoutError):
        while more := peer.read():
            found, rest = http2.frames(rest + more)
            if http2.RST_STREAM in {kind for kind, _ in found}:
                return True
        raise AssertionError("it ended the channel")
    return False
