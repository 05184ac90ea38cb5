"""One side's evidence is shown as the other's, or a side plays the other's part (P1).

TEE, key and connection are all right; only the role isn't.
"""

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
)
from tests.support.malicious_peer import ACCEPTED, MaliciousPeer, attacking, malicious_server

from casemate.errors import NotAcceptableError, NotGenuineError
from casemate.project.policies import policy_for_launcher
from casemate.protocol.contract import BrokerIdentity
from casemate.types import sha384


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


def test_a_servers_evidence_shown_by_a_client_is_refused(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        launch = broker.contract.digest()
        peer.present(launcher_tee(), launch=launch, nonce=peer.nonce(b"server"))
        assert peer.read_refusal() == "binding.nonce"
    assert broker.released() == []


def test_a_clients_evidence_shown_by_a_server_is_refused():
    def confuse(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.present(BROKER_KEY, nonce=peer.nonce(b"client"))
        assert peer.read_refusal() == "binding.nonce"

    with malicious_server(confuse) as port, pytest.raises(NotGenuineError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "binding.nonce"


def test_the_brokers_identity_key_is_no_launcher(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        peer.present(BROKER_KEY, launch=broker.contract.digest())
        assert peer.read_refusal() == "identity-key.unknown"


def served_by_a_launcher(contract_broker, code, error):
    """A launcher plays the broker: its evidence is genuine, fresh, and of the server's role."""

    def serve(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.present(launcher_tee(), launch=sha384(b"some contract"))
        assert peer.read_refusal() == code

    with malicious_server(serve) as port, pytest.raises(error) as caught:
        identity = dataclasses.replace(contract_broker, address=f"127.0.0.1:{port}")
        fetched(contract_at(port, broker=identity))
    assert caught.value.code == code


def test_a_launcher_is_no_broker_where_the_contract_pins_a_key():
    identity = BrokerIdentity(address="", key=BROKER_KEY.spki)
    served_by_a_launcher(identity, "simulated.unknown-root", NotGenuineError)


@pytest.mark.parametrize("wrong", ["measurement", "contract"])
def test_a_launcher_is_no_broker_where_the_contract_pins_a_policy(wrong):
    measurement = MEASUREMENT if wrong == "contract" else sha384(b"the broker's code")
    document = policy_for_launcher(contract_at(1), root=ROOT, measurement=measurement)
    identity = BrokerIdentity(address="", policy=document.render())
    served_by_a_launcher(identity, "policy.mismatch", NotAcceptableError)


def test_a_client_that_gives_the_verdict_itself_is_not_let_in(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        peer.send_frame(ACCEPTED, b"")
        peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert peer.read() == b""
    assert broker.refused_for() == ["channel.unexpected"]
