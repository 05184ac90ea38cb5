"""Somebody stands between launcher and broker (threat model, P2).

It has all packets, may hold the TLS private key of either side, and may be a broker that the
launcher's owner once trusted. What it never has is what attests: the TEE and the identity key.
"""

import pytest
from tests.support.attested import (
    BROKER_KEY,
    OTHER_KEY,
    SECRETS,
    contract_at,
    fetched,
    running_broker,
)
from tests.support.malicious_peer import (
    ACCEPTED,
    EVIDENCE,
    MaliciousPeer,
    attacking,
    malicious_server,
    relay,
)

from casemate.channel.tls import make_tls_key
from casemate.errors import CasemateError, NotGenuineError
from casemate.project.programs import pick_port
from casemate.protocol.contract import BrokerIdentity


@pytest.fixture
def stolen(monkeypatch):
    """The TLS key that the broker is about to make, in the attacker's hands too."""
    key = make_tls_key()
    monkeypatch.setattr("casemate.channel.server.make_tls_key", lambda: key)
    return key


@pytest.fixture
def broker(tmp_path):
    """A broker whose launchers are led to another port: the attacker's."""
    with running_broker(tmp_path, contract=contract_at(pick_port(0))) as broker:
        yield broker


def front_of(broker):
    return broker.contract.broker.endpoint[1]


@pytest.mark.parametrize("with_the_brokers_key", [False, True])
def test_passing_the_brokers_evidence_on_is_refused(stolen, broker, with_the_brokers_key):
    code = "binding.nonce" if with_the_brokers_key else "binding.public-key"
    heard = []

    def stand_between(network):
        with attacking(broker.port) as onward:
            key = stolen if with_the_brokers_key else None
            peer = MaliciousPeer(network, server=True, key=key).handshake()
            if with_the_brokers_key:
                assert onward.peer_spki == stolen.spki
            peer.send_frame(*onward.read_frame())
            heard.append(peer.read_refusal())

    with (
        malicious_server(stand_between, port=front_of(broker)),
        pytest.raises(NotGenuineError) as caught,
    ):
        fetched(broker.contract)
    assert caught.value.code == code
    assert heard == [code]
    assert broker.released() == []


@pytest.mark.parametrize("with_the_launchers_key", [False, True])
def test_passing_a_launchers_evidence_on_is_refused(tmp_path, monkeypatch, with_the_launchers_key):
    """The launcher talks to a broker that its contract names, and that broker is malicious.

    The real broker would release to just that contract.
    """
    leaked = make_tls_key()
    code = "binding.nonce" if with_the_launchers_key else "binding.public-key"
    if with_the_launchers_key:
        monkeypatch.setattr("casemate.channel.client.make_tls_key", lambda: leaked)
    port = pick_port(0)
    identity = BrokerIdentity(address=f"127.0.0.1:{port}", key=OTHER_KEY.spki)
    contract = contract_at(port, broker=identity)

    def divert(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.present(OTHER_KEY)
        kind, evidence = peer.read_frame()
        assert kind == EVIDENCE
        key = leaked if with_the_launchers_key else None
        with attacking(broker.port, key) as onward:
            assert onward.read_frame()[0] == EVIDENCE
            onward.send_frame(EVIDENCE, evidence)
            assert onward.read_refusal() == code

    with (
        running_broker(tmp_path, contract=contract) as broker,
        malicious_server(divert, port=port),
        pytest.raises(CasemateError),
    ):
        fetched(contract)
    assert broker.refused_for() == [code]
    assert broker.released() == []


def test_a_server_with_the_brokers_tls_key_and_no_identity_key_is_refused(stolen, broker):
    def impersonate(network):
        peer = MaliciousPeer(network, server=True, key=stolen).handshake()
        peer.present(OTHER_KEY)
        assert peer.read_refusal() == "identity-key.unknown"

    with (
        malicious_server(impersonate, port=front_of(broker)),
        pytest.raises(NotGenuineError) as caught,
    ):
        fetched(broker.contract)
    assert caught.value.code == "identity-key.unknown"


def test_a_server_that_accepts_at_once_and_proves_nothing_is_refused(broker):
    def prove_nothing(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.send_frame(ACCEPTED, b"")
        assert peer.read() == b""

    with malicious_server(prove_nothing, port=front_of(broker)), pytest.raises(CasemateError) as e:
        fetched(broker.contract)
    assert e.value.code == "channel.unexpected"


def test_whoever_only_listens_hears_no_secret(broker):
    heard = []
    with malicious_server(
        lambda network: heard.append(relay(network, broker.port)), port=front_of(broker)
    ):
        assert fetched(broker.contract) == SECRETS
    (traffic,) = heard
    assert len(traffic) > 1000
    for word in (*SECRETS, *SECRETS.values(), BROKER_KEY.spki, broker.contract.digest()):
        assert (word.encode() if isinstance(word, str) else word) not in traffic


@pytest.mark.parametrize("to_server", [True, False], ids=["to the broker", "to the launcher"])
@pytest.mark.parametrize("packet", range(4))
def test_a_changed_packet_gives_an_error_and_never_another_secret(broker, to_server, packet):
    count = 0

    def change(towards_server, data):
        nonlocal count
        if towards_server is not to_server:
            return data
        count += 1
        if count != packet + 1:
            return data
        return data[:-1] + bytes([data[-1] ^ 1])

    def stand_between(network):
        relay(network, broker.port, change)

    with malicious_server(stand_between, port=front_of(broker)), pytest.raises(CasemateError):
        fetched(broker.contract)
    assert count > packet
