"""The vectors of specs/attested-channel.md: our nonce, binding and engine agree with them."""

import pytest
from tests.support import vectors

from casemate.channel.engine import (
    ChannelEngine,
    InnerData,
    JudgeEvidence,
    Opened,
    PresentEvidence,
    Role,
    channel_nonce,
)
from casemate.channel.party import RefusedByPeerError
from casemate.channel.tls import make_tls_key
from casemate.errors import CasemateError
from casemate.evidence import Evidence, Tee
from casemate.protocol import (
    Claims,
    PresentedEvidence,
    bound_claims,
    encode_claims,
    report_data_for,
    verify_peer,
)
from casemate.protocol.binding import parse_claims
from casemate.types import Nonce, ReportData, Sha384, sha256
from casemate.verify import TrustAnchors

SPEC = "attested-channel"
ANY_EVIDENCE = PresentedEvidence(evidence=Evidence(tee=Tee.SIMULATED, data=b""), claims_buffer=b"")
KEYS = {role: make_tls_key() for role in Role}


def bytes_of(case, *names):
    return [bytes.fromhex(case[name]) for name in names]


def optional(case, name, kind):
    return kind(bytes.fromhex(case[name])) if name in case else None


@pytest.mark.parametrize("name", vectors.names(SPEC, "exchange-"))
def test_a_side_computes_and_sends_what_it_should(name):
    case = vectors.load(SPEC, name)
    exporter, client, server, spki, frame, anchor = bytes_of(
        case, "exporter", "client-spki", "server-spki", "spki", "frame", "anchor"
    )
    role = Role(case["role"].encode())
    nonce = channel_nonce(exporter, role, client_spki=client, server_spki=server)
    launch = optional(case, "launch", Sha384)
    claims = encode_claims(Claims(pubkey_hash=sha256(spki), nonce=nonce, launch=launch))
    presented = PresentedEvidence.parse(frame[5:])

    assert nonce.hex() == case["nonce"]
    assert claims.hex() == case["claims"]
    assert report_data_for(claims).hex() == case["report-data"]
    assert presented.claims_buffer == claims
    assert presented.encode() == frame[5:]
    anchors = TrustAnchors(development_roots=(anchor,), identity_keys=(anchor,))
    assert verify_peer(presented, anchors=anchors, spki=spki, nonce=nonce).claims.launch == launch


@pytest.mark.parametrize("name", vectors.names(SPEC, "claims-"))
def test_a_claims_buffer_says_what_it_should_or_is_refused(name):
    case = vectors.load(SPEC, name)
    (data,) = bytes_of(case, "claims")
    if "error" in case:
        with pytest.raises(CasemateError) as caught:
            parse_claims(data)
        assert caught.value.code == case["error"]
        return
    claims = parse_claims(data)
    found = {"pubkey-hash": claims.pubkey_hash, "nonce": claims.nonce, "launch": claims.launch}
    assert {key: value.hex() for key, value in found.items() if value} == case["accepted"]
    assert encode_claims(claims) == data
    assert report_data_for(data).hex() == case["report-data"]


@pytest.mark.parametrize("name", vectors.names(SPEC, "binding-"))
def test_claims_are_bound_to_evidence_key_and_connection_or_refused(name):
    case = vectors.load(SPEC, name)
    claims, spki = bytes_of(case, "claims", "spki")
    report_data, nonce = optional(case, "report-data", ReportData), optional(case, "nonce", Nonce)
    if "error" in case:
        with pytest.raises(CasemateError) as caught:
            bound_claims(claims, report_data=report_data, spki=spki, nonce=nonce)
        assert caught.value.code == case["error"]
        return
    assert bound_claims(claims, report_data=report_data, spki=spki, nonce=nonce).nonce == nonce


@pytest.mark.parametrize("pieces", ["whole", "by byte"])
@pytest.mark.parametrize("name", vectors.names(SPEC, "frame-", "message-"))
def test_frames_have_the_effect_that_they_should(name, pieces):
    case = vectors.load(SPEC, name)
    (data,) = bytes_of(case, "bytes")
    sender, receiver = in_state(case["receiver"], case["awaits"])
    parts = [data] if pieces == "whole" else [data[at : at + 1] for at in range(len(data))]

    def receive():
        events = []
        for part in parts:
            sender._write(part)
            events += receiver.receive_data(sender.data_to_send())
        return events

    if "error" in case:
        with pytest.raises(CasemateError) as caught:
            receive()
        assert caught.value.code == case["error"]
        assert receiver.receive_data(b"more") == []
    elif "refused" in case["accepted"]:
        with pytest.raises(RefusedByPeerError) as refused:
            receive()
        told = case["accepted"]["refused"]
        assert refused.value.remote_code == told["code"]
        assert refused.value.correlation_id == told["correlation-id"]
    elif "evidence" in case["accepted"]:
        (turn,) = receive()
        assert isinstance(turn, JudgeEvidence)
        assert shown(turn.presented) == case["accepted"]["evidence"]
    else:
        opened, *inner = receive()
        assert isinstance(opened, Opened)
        assert all(isinstance(event, InnerData) for event in inner)
        assert b"".join(event.data for event in inner).hex() == case["accepted"]["opened"]


def test_the_generator_makes_the_same_vectors_again():
    assert vectors.generated(SPEC) == vectors.stored(SPEC)


def shown(presented):
    return {
        "tee": presented.evidence.tee,
        "evidence": presented.evidence.data.hex(),
        "endorsements": [item.hex() for item in presented.evidence.endorsements],
        "claims": presented.claims_buffer.hex(),
    }


def in_state(receiver, awaits):
    """Two engines after the handshake: who sends, and the receiver in the state that is asked."""
    client = ChannelEngine(Role.CLIENT, KEYS[Role.CLIENT])
    server = ChannelEngine(Role.SERVER, KEYS[Role.SERVER])
    client.start()
    server.receive_data(client.data_to_send())
    client.receive_data(server.data_to_send())
    assert isinstance(server.receive_data(client.data_to_send())[0], PresentEvidence)
    client.receive_data(server.data_to_send())
    if (receiver, awaits) in {("server", "evidence"), ("server", "judging"), ("client", "verdict")}:
        server.present(ANY_EVIDENCE)
        client.receive_data(server.data_to_send())
    if awaits in {"judging", "verdict"}:
        client.accept()
        client.present(ANY_EVIDENCE)
    if awaits == "judging":
        server.receive_data(client.data_to_send())
    client.data_to_send()
    return (client, server) if receiver == "server" else (server, client)
