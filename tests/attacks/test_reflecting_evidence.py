"""A side is shown its own evidence (threat model, P1).

The policy here accepts the broker's own TEE as a launcher, as where both run the same code: so the
evidence is genuine and acceptable, and only where it comes from is wrong.
"""

import contextlib
import dataclasses

import pytest
from tests.support.attested import (
    BROKER_KEY,
    MEASUREMENT,
    ROOT,
    contract_at,
    fetched,
    launcher_tee,
    running_broker,
    wait_until,
)
from tests.support.malicious_peer import (
    EVIDENCE,
    MaliciousPeer,
    attacking,
    connected,
    malicious_server,
)

from casemate.channel.tls import make_tls_key
from casemate.errors import CasemateError, NotGenuineError
from casemate.policy import PolicyDocument, Unchecked
from casemate.project.policies import policy_for_launcher

CONTRACT = contract_at(1)


def policy_for_any_contract():
    document = policy_for_launcher(CONTRACT, root=ROOT, measurement=MEASUREMENT)
    (alternative,) = document.policies["launcher"].alternatives
    constraints = {**alternative.constraints, "launch": Unchecked("brokers have none")}
    policy = dataclasses.replace(
        document.policies["launcher"],
        alternatives=(dataclasses.replace(alternative, constraints=constraints),),
    )
    return PolicyDocument(policies={"launcher": policy}, secrets=document.secrets)


@pytest.fixture
def leaked(monkeypatch):
    """The TLS key that both sides of casemate's own are about to make."""
    key = make_tls_key()
    monkeypatch.setattr("casemate.channel.server.make_tls_key", lambda: key)
    monkeypatch.setattr("casemate.channel.client.make_tls_key", lambda: key)
    return key


@pytest.fixture
def broker(tmp_path, leaked):
    document = policy_for_any_contract()
    with running_broker(tmp_path, document=document, attester=launcher_tee()) as broker:
        yield broker


def test_the_brokers_own_evidence_would_be_acceptable(broker):
    """What this file rests on: evidence of the same TEE, rightly made, is accepted."""
    with attacking(broker.port) as peer:
        peer.read_frame()
        peer.present(launcher_tee())
        assert peer.read_frame() == (2, b"")
        wait_until(lambda: broker.lines("opened"))


def test_the_brokers_evidence_sent_back_to_it_is_refused(broker):
    with attacking(broker.port) as mirror:
        mirror.send_frame(*mirror.read_frame())
        assert mirror.read_refusal() == "binding.public-key"
    assert broker.released() == []


def test_the_brokers_evidence_of_one_connection_sent_to_it_on_another_is_refused(broker):
    with attacking(broker.port) as source, attacking(broker.port) as target:
        target.read_frame()
        target.send_frame(*source.read_frame())
        assert target.read_refusal() == "binding.public-key"


def test_a_broker_does_not_talk_to_its_own_key(broker, leaked):
    """Else its own evidence would name the right key."""
    with connected(broker.port) as network:
        peer = MaliciousPeer(network, key=leaked).handshake()
        assert peer.read() == b""  # not even evidence
    assert broker.refused_for() == ["channel.own-key"]


def test_a_launcher_does_not_talk_to_its_own_key(leaked):
    def mirror(network):
        peer = MaliciousPeer(network, server=True, key=leaked).handshake()
        peer.present(BROKER_KEY)  # genuine, as if a broker held the launcher's TLS key
        assert peer.read() == b""

    with malicious_server(mirror) as port, pytest.raises(NotGenuineError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "channel.own-key"


def test_a_launcher_whose_packets_come_back_to_it_ends():
    def echo(network):
        with contextlib.suppress(ConnectionError):
            while data := network.recv(65536):
                network.sendall(data)

    with malicious_server(echo) as port, pytest.raises(CasemateError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "channel.tls"


def test_a_launchers_evidence_sent_back_to_it_is_refused():
    """It takes the answer for the broker's verdict, and evidence is none."""

    def mirror(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.present(BROKER_KEY)
        kind, evidence = peer.read_frame()
        assert kind == EVIDENCE
        peer.send_frame(kind, evidence)
        assert peer.read() == b""

    with malicious_server(mirror) as port, pytest.raises(CasemateError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "channel.unexpected"
