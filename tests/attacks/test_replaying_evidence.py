"""Evidence that was genuine on one connection is shown on another (threat model, P1).

The attacker has recorded it, as anybody can whom either side once accepted. It may even hold the
TLS key that the evidence names.
"""

import pytest
from tests.support.attested import (
    BROKER_KEY,
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    running_broker,
)
from tests.support.malicious_peer import (
    ACCEPTED,
    EVIDENCE,
    MaliciousPeer,
    attacking,
    claims_of,
    evidence_message,
    malicious_server,
)

from casemate.channel.tls import make_tls_key
from casemate.errors import NotGenuineError


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


def record_launcher(broker, key):
    """A launcher's evidence, from a connection on which the broker accepts it."""
    with attacking(broker.port, key) as peer:
        assert peer.read_frame()[0] == EVIDENCE
        message = peer.present(launcher_tee(), launch=broker.contract.digest())
        assert peer.read_frame() == (ACCEPTED, b"")
    return message


@pytest.mark.parametrize(
    ("same_key", "code"), [(True, "binding.nonce"), (False, "binding.public-key")]
)
def test_a_launchers_evidence_of_another_connection_is_refused(broker, same_key, code):
    key = make_tls_key()
    message = record_launcher(broker, key)
    with attacking(broker.port, key if same_key else make_tls_key()) as replayer:
        replayer.read_frame()
        replayer.send_frame(EVIDENCE, message)
        assert replayer.read_refusal() == code
    assert broker.refused_for() == [code]
    assert broker.released() == []


def test_evidence_is_refused_when_it_is_shown_twice_on_its_own_connection(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        message = peer.present(launcher_tee(), launch=broker.contract.digest())
        assert peer.read_frame() == (ACCEPTED, b"")
        peer.send_frame(EVIDENCE, message)
        peer.read_to_the_end()  # it is inner data now, and no gRPC
    assert broker.released() == []


def test_evidence_without_a_nonce_as_in_a_certificate_is_refused(broker):
    """It binds the key alone: whoever gets the key could show it for ever."""
    with attacking(broker.port) as peer:
        peer.read_frame()
        claims = claims_of(peer.key.spki, launch=broker.contract.digest())
        peer.send_frame(EVIDENCE, evidence_message(launcher_tee(), claims))
        assert peer.read_refusal() == "binding.nonce"
    assert broker.released() == []


def test_a_brokers_evidence_of_another_connection_is_refused(broker):
    with attacking(broker.port) as recorder:
        kind, message = recorder.read_frame()
        assert kind == EVIDENCE
    got = []

    def replay(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.send_frame(EVIDENCE, message)
        got.append(peer.read_refusal())

    with malicious_server(replay) as port, pytest.raises(NotGenuineError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "binding.public-key"
    assert got == ["binding.public-key"]  # and no evidence of the launcher's


def test_a_brokers_evidence_without_a_nonce_is_refused():
    def show_certificate_evidence(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.send_frame(EVIDENCE, evidence_message(BROKER_KEY, claims_of(peer.key.spki)))
        assert peer.read_refusal() == "binding.nonce"

    with (
        malicious_server(show_certificate_evidence) as port,
        pytest.raises(NotGenuineError) as caught,
    ):
        fetched(contract_at(port))
    assert caught.value.code == "binding.nonce"


def test_the_same_launcher_may_come_again_with_evidence_of_its_own(broker):
    for _ in range(2):
        assert fetched(broker.contract) == SECRETS
