"""The claims buffer beside genuine evidence is changed (threat model, P3).

The claims say which contract is launched, which key is spoken for and which connection is meant.
Evidence binds their hash alone, so whoever carries them could try to put others in their place.
"""

import cbor2
import pytest
from tests.support.attested import (
    BROKER_KEY,
    ROOT,
    contract_at,
    fetched,
    launcher_tee,
    running_broker,
)
from tests.support.malicious_peer import (
    EVIDENCE,
    MaliciousPeer,
    attacking,
    claims_of,
    evidence_message,
    malicious_server,
    message_of,
)

from casemate.channel.tls import make_tls_key
from casemate.errors import NotGenuineError
from casemate.protocol import PresentedEvidence, verify_peer
from casemate.types import Nonce, ReportData, sha256, sha384
from casemate.verify import TrustAnchors

OTHER_LAUNCH = sha384(b"the attacker's own contract")


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


def test_another_contract_in_the_claims_is_refused(broker):
    """The TEE runs the attacker's contract; the claims are mended to the one that is accepted."""
    with attacking(broker.port) as peer:
        peer.read_frame()
        made = claims_of(peer.key.spki, nonce=peer.own_nonce, launch=OTHER_LAUNCH)
        shown = claims_of(peer.key.spki, nonce=peer.own_nonce, launch=broker.contract.digest())
        peer.send_frame(EVIDENCE, evidence_message(launcher_tee(), made, shown=shown))
        assert peer.read_refusal() == "binding.report-data"
    assert broker.released() == []


def test_another_key_in_the_claims_is_refused(broker):
    """Evidence of another's key, shown with claims for the attacker's."""
    with attacking(broker.port) as peer:
        peer.read_frame()
        fields = {"nonce": peer.own_nonce, "launch": broker.contract.digest()}
        made = claims_of(make_tls_key().spki, **fields)
        shown = claims_of(peer.key.spki, **fields)
        peer.send_frame(EVIDENCE, evidence_message(launcher_tee(), made, shown=shown))
        assert peer.read_refusal() == "binding.report-data"
    assert broker.released() == []


def test_claims_that_are_mended_inside_the_evidence_too_break_its_signature(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        made = claims_of(peer.key.spki, nonce=peer.own_nonce, launch=OTHER_LAUNCH)
        shown = claims_of(peer.key.spki, nonce=peer.own_nonce, launch=broker.contract.digest())
        evidence = cbor2.loads(launcher_tee().attest(report_data(made)).data)
        report = cbor2.loads(evidence["report"])
        report["report-data"] = bytes(report_data(shown))
        evidence["report"] = cbor2.dumps(report, canonical=True)
        message = message_of("simulated", cbor2.dumps(evidence, canonical=True), shown)
        peer.send_frame(EVIDENCE, message)
        assert peer.read_refusal() == "simulated.signature"
    assert broker.released() == []


def test_evidence_of_another_protocol_whose_report_data_begins_alike_is_refused(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        claims = claims_of(peer.key.spki, nonce=peer.own_nonce, launch=broker.contract.digest())
        evidence = launcher_tee().attest(ReportData(sha256(claims) + bytes([1]) * 32))
        peer.send_frame(EVIDENCE, message_of("simulated", evidence.data, claims))
        assert peer.read_refusal() == "binding.report-data"


def test_a_claim_that_nobody_knows_is_refused(broker):
    with attacking(broker.port) as peer:
        peer.read_frame()
        claims = claims_of(
            peer.key.spki, nonce=peer.own_nonce, launch=broker.contract.digest(), role=b"admin"
        )
        peer.send_frame(EVIDENCE, evidence_message(launcher_tee(), claims))
        assert peer.read_refusal() == "encoding.unknown-field"


def test_changed_claims_of_a_broker_are_refused():
    """A rogue proxy has the broker sign for its own key, and shows the claims that it needs."""

    def serve(network):
        peer = MaliciousPeer(network, server=True).handshake()
        made = claims_of(make_tls_key().spki, nonce=peer.own_nonce)
        shown = claims_of(peer.key.spki, nonce=peer.own_nonce)
        peer.send_frame(EVIDENCE, evidence_message(BROKER_KEY, made, shown=shown))
        assert peer.read_refusal() == "binding.report-data"

    with malicious_server(serve) as port, pytest.raises(NotGenuineError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "binding.report-data"


@pytest.mark.parametrize("tee", [launcher_tee(), BROKER_KEY], ids=["simulated", "identity key"])
def test_flipping_any_bit_of_the_claims_is_refused(tee):
    spki, nonce = make_tls_key().spki, Nonce(bytes(range(32)))
    claims = claims_of(spki, nonce=nonce, launch=OTHER_LAUNCH)
    anchors = TrustAnchors(development_roots=(ROOT.spki,), identity_keys=(BROKER_KEY.spki,))
    evidence = tee.attest(report_data(claims))

    def verify(shown):
        presented = PresentedEvidence(evidence=evidence, claims_buffer=shown)
        return verify_peer(presented, anchors=anchors, spki=spki, nonce=nonce)

    assert verify(claims).claims.launch == OTHER_LAUNCH
    for bit in range(8 * len(claims)):
        changed = bytearray(claims)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotGenuineError) as caught:
            verify(bytes(changed))
        assert caught.value.code == "binding.report-data"


def report_data(claims):
    return ReportData(sha256(claims) + bytes(32))
