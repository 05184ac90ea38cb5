"""Whatever a peer sends, the engine gives events or the one protocol error, and then nothing."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.engine_pair import KEYS, PARTIES, Pair

from casemate.channel.engine import (
    ChannelEngine,
    InnerData,
    JudgeEvidence,
    Opened,
    PeerClosed,
    PresentEvidence,
    Role,
)
from casemate.channel.exchange import judge_evidence, make_evidence
from casemate.channel.party import RefusedByPeerError
from casemate.encoding import encode_cbor
from casemate.errors import InternalError, MalformedError, NotGenuineError

PROTOCOL_ERRORS = (MalformedError, NotGenuineError, RefusedByPeerError)
STATES = ("tls", "servers evidence", "clients evidence", "open")
BODIES = st.one_of(
    st.binary(max_size=300),
    st.builds(
        encode_cbor,
        st.dictionaries(
            st.sampled_from(
                ["code", "correlation-id", "tee", "evidence", "claims", "endorsements"]
            ),
            st.text("a0.", max_size=5) | st.binary(max_size=5) | st.just([]) | st.integers(0, 9),
        ),
    ),
)
FRAMES = st.builds(
    lambda kind, body, length: (
        bytes([kind]) + (len(body) if length is None else length).to_bytes(4, "big") + body
    ),
    st.integers(0, 4) | st.integers(0, 255),
    BODIES,
    st.none() | st.integers(0, 2**32 - 1),
)
SPOKEN = st.one_of(st.binary(min_size=1, max_size=600), st.lists(FRAMES, min_size=1).map(b"".join))


def in_state(state):
    """A pair of engines: which of them speaks next, and to which."""
    pair = Pair()
    if state == "tls":
        pair.up_to_tls()
        return pair.server, pair.client
    if state == "servers evidence":
        pair.up_to_the_servers_evidence()
        return pair.client, pair.server
    if state == "clients evidence":
        pair.up_to_the_clients_evidence()
        return pair.server, pair.client
    pair.up_to_open()
    return pair.client, pair.server


def fed(engine, pieces):
    """Every event, up to the first error, after which the engine must be silent."""
    events = []
    for piece in pieces:
        try:
            events += engine.receive_data(piece)
        except PROTOCOL_ERRORS:
            assert engine.receive_data(b"more") == []
            assert engine.receive_data(b"") == []
            with pytest.raises(InternalError):
                engine.send(b"inner")
            return events, True
    return events, False


def cut(data, at):
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[one:other] for one, other in pairwise(places)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(Role), st.binary(min_size=1, max_size=1000), st.lists(st.integers(0)))
def test_any_bytes_in_place_of_a_handshake(role, data, at):
    engine = ChannelEngine(role, KEYS[role])
    engine.start()
    events, _ = fed(engine, cut(data, at))
    assert events == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4), st.integers(0, 255))
def test_a_handshake_that_is_damaged_anywhere(places, value):
    """Its first flight, of which a few bytes are others: TLS may mend nothing."""
    client = ChannelEngine(Role.CLIENT, KEYS[Role.CLIENT])
    client.start()
    flight = bytearray(client.data_to_send())
    for at in places:
        flight[at % len(flight)] = value
    server = ChannelEngine(Role.SERVER, KEYS[Role.SERVER])
    events, _ = fed(server, [bytes(flight)])
    assert events == []


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STATES), SPOKEN, st.lists(st.integers(0), max_size=3))
def test_anything_said_inside_tls(state, data, at):
    speaker, listener = in_state(state)
    pieces = []
    for piece in cut(data, at):
        speaker._write(piece)
        pieces.append(speaker.data_to_send())
    events, failed = fed(listener, pieces)
    if state == "open":
        assert not failed
        assert b"".join(event.data for event in events) == data
    elif state == "clients evidence":
        if Opened() in events:  # the server's word for it, and all that follows is inner data
            assert data.startswith(b"\x02\0\0\0\0")
            assert b"".join(e.data for e in events if isinstance(e, InnerData)) == data[5:]
        else:
            assert events == []
    else:
        assert not any(isinstance(event, Opened | InnerData) for event in events)
        for event in events:  # some evidence: it is judged, and is none
            assert isinstance(event, JudgeEvidence)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["presenting", "judging"]), SPOKEN)
def test_anything_said_out_of_turn(state, data):
    """While a side makes or judges evidence it awaits nothing."""
    pair = Pair()
    if state == "presenting":
        pair.up_to_tls()
        speaker, listener = pair.client, pair.server
    else:
        pair.up_to_the_servers_evidence()
        speaker, listener = pair.server, pair.client
    speaker._write(data)
    with pytest.raises(MalformedError) as caught:
        pair.pass_on(speaker, listener)
    assert caught.value.code == "channel.unexpected"


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(STATES), st.binary(min_size=1, max_size=1000), st.lists(st.integers(0)))
def test_any_bytes_below_tls_after_the_handshake(state, data, at):
    _, listener = in_state(state)
    events, _ = fed(listener, cut(data, at))
    assert [event for event in events if not isinstance(event, PeerClosed)] == []


def exchange(pair, damage):
    """Bring a pair up with ``damage`` done to its packets; returns which sides are open."""
    sides = {Role.CLIENT: (pair.server, pair.client), Role.SERVER: (pair.client, pair.server)}
    opened = set()
    for _ in range(6):
        for role, (source, sink) in sides.items():
            flight = source.data_to_send()
            pending = sink.receive_data(damage(flight)) if flight else []
            while pending:
                match pending.pop(0):
                    case PresentEvidence() as turn:
                        sink.present(make_evidence(PARTIES[role], turn))
                    case JudgeEvidence() as turn:
                        judge_evidence(PARTIES[role], turn, lambda peer: peer)
                        pending += sink.accept()
                    case Opened():
                        opened.add(role)
    return opened


@settings(max_examples=120, deadline=None)
@given(wanted=st.integers(0, 5), place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_an_exchange_of_which_one_bit_is_flipped_fails_or_is_none_the_worse(wanted, place, bit):
    packets = 0

    def damage(flight):
        nonlocal packets
        packets += 1
        if packets != wanted + 1:
            return flight
        changed = bytearray(flight)
        changed[place % len(flight)] ^= 1 << bit
        return bytes(changed)

    pair = Pair()
    try:
        opened = exchange(pair, damage)
    except PROTOCOL_ERRORS:
        return
    # Some bits mean nothing, as the version in a plaintext record's header; some stop a side.
    if opened == set(Role):
        pair.client.send(b"inner")
        assert pair.pass_on(pair.client, pair.server) == [InnerData(b"inner")]


def test_an_exchange_that_nobody_touches_opens_both_sides():
    assert exchange(Pair(), bytes) == set(Role)
