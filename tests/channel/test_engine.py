"""The channel's protocol without I/O: who says what when, and what else ends it."""

import pytest
from tests.support.engine_pair import KEYS, LAUNCH, PARTIES, Pair

from casemate.channel.engine import (
    ChannelEngine,
    InnerData,
    JudgeEvidence,
    Opened,
    PeerClosed,
    PresentEvidence,
    Role,
    channel_nonce,
)
from casemate.channel.exchange import judge_evidence, make_evidence
from casemate.channel.party import RefusedByPeerError
from casemate.errors import (
    InternalError,
    MalformedError,
    NotAcceptableError,
    NotGenuineError,
    UnavailableError,
)


def inner(events):
    assert all(isinstance(event, InnerData) for event in events)
    return b"".join(event.data for event in events)


def test_each_side_judges_the_others_evidence_for_this_connection():
    pair = Pair()
    turn = pair.up_to_the_servers_evidence()
    assert isinstance(turn, JudgeEvidence)
    assert turn.spki == KEYS[Role.SERVER].spki
    server = judge_evidence(PARTIES[Role.CLIENT], turn, lambda peer: peer)
    assert server.claims.launch is None

    (turn,) = pair.client.accept()
    assert isinstance(turn, PresentEvidence)
    assert turn.spki == KEYS[Role.CLIENT].spki
    pair.client.present(make_evidence(PARTIES[Role.CLIENT], turn))
    (turn,) = pair.pass_on(pair.client, pair.server)
    client = judge_evidence(PARTIES[Role.SERVER], turn, lambda peer: peer)
    assert client.claims.launch == LAUNCH
    assert client.spki == KEYS[Role.CLIENT].spki


def test_the_key_exchange_holds_against_quantum_computers():
    pair = Pair().up_to_open()
    assert pair.client.group == pair.server.group == "X25519MLKEM768"


@pytest.mark.parametrize("size", [1, 16384, 16385, 300_000])
def test_an_open_channel_carries_bytes_both_ways(size):
    pair = Pair().up_to_open()
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    for source, sink in ((pair.client, pair.server), (pair.server, pair.client)):
        source.send(data)
        assert inner(pair.pass_on(source, sink)) == data


def test_inner_bytes_may_come_with_the_verdict():
    pair = Pair()
    pair.up_to_the_clients_evidence()
    pair.server.accept()
    pair.server.send(b"first")
    opened, *rest = pair.pass_on(pair.server, pair.client)
    assert opened == Opened()
    assert inner(rest) == b"first"


def test_an_open_channel_that_is_closed_says_so_to_the_peer():
    pair = Pair().up_to_open()
    pair.client.send(b"last")
    pair.client.close()
    pair.client.close()
    data, closed = pair.pass_on(pair.client, pair.server)
    assert (data, closed) == (InnerData(b"last"), PeerClosed())
    assert pair.server.receive_data(b"more") == []


@pytest.mark.parametrize("frame_bytes", [1, 7])
def test_how_bytes_are_cut_has_no_meaning(frame_bytes):
    pair = Pair()
    pair.server.present(make_evidence(PARTIES[Role.SERVER], pair.up_to_tls()))
    data = pair.server.data_to_send()
    events = []
    for at in range(0, len(data), frame_bytes):
        events += pair.client.receive_data(data[at : at + frame_bytes])
    (turn,) = events
    assert judge_evidence(PARTIES[Role.CLIENT], turn, lambda peer: peer)


@pytest.mark.parametrize("role", Role)
def test_a_refusal_tells_code_and_id_and_ends_both_sides(role):
    pair = Pair()
    if role is Role.CLIENT:
        pair.up_to_the_servers_evidence()
        refuser, refused = pair.client, pair.server
    else:
        pair.up_to_the_clients_evidence()
        refuser, refused = pair.server, pair.client
    refuser.refuse("policy.mismatch", "00c0ffee")
    with pytest.raises(RefusedByPeerError) as caught:
        pair.pass_on(refuser, refused)
    error = caught.value
    assert (error.remote_code, error.correlation_id) == ("policy.mismatch", "00c0ffee")
    assert isinstance(error, NotAcceptableError)
    assert error.as_dict()["correlation_id"] == "00c0ffee"
    assert "00c0ffee" in error.remedy
    assert refuser.receive_data(b"more") == refused.receive_data(b"more") == []


def test_a_refusal_before_there_are_keys_sends_nothing():
    engine = ChannelEngine(Role.SERVER, KEYS[Role.SERVER])
    engine.refuse("channel.timeout", "0")
    assert engine.data_to_send() == b""


@pytest.mark.parametrize("role", Role)
def test_a_side_that_is_called_out_of_turn_is_a_bug_and_sends_nothing(role):
    pair = Pair()
    pair.up_to_tls()
    engine = pair.client if role is Role.CLIENT else pair.server
    engine.data_to_send()
    calls = [engine.accept, lambda: engine.send(b"inner")]
    if role is Role.CLIENT:
        calls.append(lambda: engine.present(None))
    for call in calls:
        with pytest.raises(InternalError):
            call()
    assert engine.data_to_send() == b""


@pytest.mark.parametrize("stage", ["start", "tls", "evidence", "verdict"])
def test_an_end_before_the_channel_is_open_is_no_verdict(stage):
    pair = Pair()
    engine = pair.server if stage == "evidence" else pair.client
    if stage == "tls":
        pair.up_to_tls()
    elif stage == "evidence":
        pair.up_to_the_servers_evidence()
    elif stage == "verdict":
        pair.up_to_the_clients_evidence()
    with pytest.raises(UnavailableError) as caught:
        engine.receive_data(b"")
    assert caught.value.code == "channel.cut"
    assert engine.receive_data(b"more") == []


def test_a_close_before_the_channel_is_open_is_no_verdict():
    pair = Pair()
    pair.up_to_the_servers_evidence()
    pair.client.close()
    with pytest.raises(UnavailableError) as caught:
        pair.pass_on(pair.client, pair.server)
    assert caught.value.code == "channel.cut"


@pytest.mark.parametrize("opened", [False, True])
def test_a_changed_record_ends_the_connection(opened):
    pair = Pair()
    if opened:
        pair.up_to_open()
        pair.server.send(b"inner")
    else:
        pair.server.present(make_evidence(PARTIES[Role.SERVER], pair.up_to_tls()))
    data = bytearray(pair.server.data_to_send())
    data[-1] ^= 1
    with pytest.raises(NotGenuineError) as caught:
        pair.client.receive_data(bytes(data))
    assert caught.value.code == "channel.tls"
    with pytest.raises(InternalError):
        pair.client.send(b"more")


def test_records_of_an_earlier_connection_end_this_one():
    first, second = Pair().up_to_open(), Pair().up_to_open()
    first.server.send(b"inner")
    with pytest.raises(NotGenuineError):
        second.client.receive_data(first.server.data_to_send())


def test_a_record_that_comes_twice_ends_the_connection():
    pair = Pair().up_to_open()
    pair.server.send(b"inner")
    data = pair.server.data_to_send()
    assert inner(pair.client.receive_data(data)) == b"inner"
    with pytest.raises(NotGenuineError):
        pair.client.receive_data(data)


def test_a_client_can_not_skip_its_evidence():
    pair = Pair()
    pair.up_to_the_servers_evidence()
    pair.client.accept()
    pair.client._write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    with pytest.raises(MalformedError) as caught:
        pair.pass_on(pair.client, pair.server)
    assert caught.value.code == "channel.unexpected"


def test_a_nonce_is_of_one_connection_one_role_and_both_keys():
    binding, client, server = bytes(32), b"client key", b"server key"

    def nonce(binding=binding, role=Role.CLIENT, client=client, server=server):
        return channel_nonce(binding, role, client_spki=client, server_spki=server)

    others = [
        nonce(binding=b"\1" * 32),
        nonce(role=Role.SERVER),
        nonce(client=b"another"),
        nonce(server=b"another"),
        nonce(client=server, server=client),
    ]
    assert nonce() not in others
    assert len(set(others)) == len(others)
    assert nonce() == nonce()


def test_two_connections_of_the_same_keys_have_other_nonces():
    assert Pair().up_to_tls().nonce != Pair().up_to_tls().nonce
