"""A peer that keeps to no protocol: too long, too slow, garbage, cut, too many (P5).

What holds: its connection ends, in time and without much memory, and all others go on.
"""

import contextlib
import dataclasses
import os
import resource
import socket
import struct
import threading
import time

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from OpenSSL import SSL
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
from tests.support.malicious_peer import (
    ACCEPTED,
    EVIDENCE,
    MaliciousPeer,
    attacking,
    claims_of,
    connected,
    evidence_message,
    malicious_server,
    relay,
    tls_key_of,
)

from casemate.channel.client import attested_tunnel
from casemate.channel.engine import MAX_FRAME
from casemate.channel.party import ChannelParty, Limits
from casemate.errors import CasemateError, MalformedError, UnavailableError
from casemate.project.programs import pick_port
from casemate.protocol.key_broker import METHOD, encode_request
from casemate.verify import TrustAnchors

SECONDS = 1.5
"""How long a handshake may take with a hasty broker; a goodbye takes up to a second more."""
AT_MOST = SECONDS + 3.0
PATIENT = Limits(
    handshake_seconds=20.0, max_age_seconds=1.0, max_connections=8, max_verifications=2
)
"""So long that what ends within `AT_MOST` ends for another reason."""
HASTY = dataclasses.replace(PATIENT, handshake_seconds=SECONDS)


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path, limits=PATIENT) as broker:
        yield broker
        broker.still_serves()


@pytest.fixture
def hasty(tmp_path):
    with running_broker(tmp_path, limits=HASTY) as broker:
        yield broker
        broker.still_serves()


@contextlib.contextmanager
def in_time(seconds=AT_MOST):
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def ended(network):
    """Read until the other side ends the connection."""
    with contextlib.suppress(ConnectionError):
        while network.recv(65536):
            pass


def frame_header(kind, length):
    return bytes([kind]) + length.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (frame_header(EVIDENCE, MAX_FRAME + 1), "channel.frame"),
        (frame_header(EVIDENCE, 2**32 - 1), "channel.frame"),
        (frame_header(3, 257), "channel.frame"),
        (frame_header(ACCEPTED, 0), "channel.unexpected"),
        (frame_header(0, 0), "channel.unexpected"),
        (frame_header(255, 2**32 - 1), "channel.unexpected"),
    ],
)
def test_a_frame_is_judged_by_its_header_alone(broker, header, code):
    with attacking(broker.port) as peer, in_time():
        peer.read_frame()
        peer.send(header)
        assert peer.read() == b""
    assert broker.refused_for() == [code]


def test_an_oversized_frame_is_not_kept(broker):
    """Gigabytes are announced, and as much is sent as goes through."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with attacking(broker.port) as peer, in_time():
        peer.read_frame()
        with contextlib.suppress(OSError, SSL.Error):
            peer.send(frame_header(EVIDENCE, 2**31))
            for _ in range(2048):
                peer.send(bytes(16384))
        assert peer.read() == b""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10  # KiB


class InOneBreath(MaliciousPeer):
    """Keeps what it has to send after its hello, until it is let go."""

    holding = False

    def _flush(self):
        if not self.holding:
            super()._flush()
            self.holding = True


def test_bytes_in_one_breath_with_the_handshake_end_the_connection(broker):
    """The broker has them before it has made its evidence."""
    with connected(broker.port) as network, in_time():
        peer = InOneBreath(network).handshake()
        peer.holding = False
        peer.send(b"more")
        assert peer.read() == b"", "it showed its evidence"
    assert broker.refused_for() == ["channel.unexpected"]


def test_bytes_in_one_breath_with_evidence_end_the_connection(broker):
    with attacking(broker.port) as peer, in_time():
        peer.read_frame()
        claims = claims_of(
            peer.key.spki, nonce=peer.own_nonce, launch=bytes(broker.contract.digest())
        )
        message = evidence_message(launcher_tee(), claims)
        peer.send(frame_header(EVIDENCE, len(message)) + message + b"more")
        assert peer.read() == b""
    assert broker.refused_for() == ["channel.unexpected"]


def test_bytes_before_their_turn_end_the_connection(broker):
    with attacking(broker.port) as peer, in_time():
        peer.read_frame()
        peer.present(launcher_tee(), launch=broker.contract.digest())
        peer.send(b"more")  # with the evidence, while that is judged, or as inner data: no gRPC
        peer.read_to_the_end()
    assert broker.released() == []


@pytest.mark.parametrize(
    "message", [b"", b"\xa0", b"\xff" * 100, b"\x81" * 60_000, bytes(MAX_FRAME)], ids=len
)
def test_a_message_that_is_no_evidence_ends_the_connection(broker, message):
    with attacking(broker.port) as peer, in_time():
        peer.read_frame()
        peer.send_frame(EVIDENCE, message)
        assert peer.read() == b""
    assert broker.refused_for()[0].startswith("encoding.")


def dribble(network, data):
    with contextlib.suppress(OSError):
        for byte in data:
            network.sendall(bytes([byte]))
            time.sleep(0.02)


def hello():
    """The first flight of a client."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(5)
        client = MaliciousPeer(ours)
        thread = threading.Thread(target=lambda: suppressed(client.handshake))
        thread.start()
        data = theirs.recv(65536)
        theirs.close()
        thread.join()
    return data


def suppressed(call):
    with contextlib.suppress(OSError, SSL.Error):
        call()


@pytest.mark.parametrize("what", ["nothing", "a hello byte by byte", "half a hello"])
def test_a_connection_that_is_slow_to_shake_hands_ends_in_time(hasty, what):
    data = hello()
    with connected(hasty.port) as network, in_time():
        if what == "half a hello":
            network.sendall(data[: len(data) // 2])
        elif what != "nothing":
            threading.Thread(target=dribble, args=(network, data), daemon=True).start()
        hasty.still_serves()
        ended(network)
    assert "channel.timeout" in hasty.refused_for()


def test_a_peer_that_is_slow_to_present_evidence_is_told_and_ends_in_time(hasty):
    with attacking(hasty.port) as peer, in_time():
        peer.read_frame()
        peer.send(frame_header(EVIDENCE, 1000) + b"\xa4")
        hasty.still_serves()
        assert peer.read_refusal() == "channel.timeout"


def test_a_peer_that_reads_nothing_ends_in_time(hasty):
    with connected(hasty.port) as network, in_time():
        network.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        MaliciousPeer(network).handshake()
        time.sleep(SECONDS + 0.2)
        wait_until(lambda: hasty.refused_for() == ["channel.timeout"])


def test_a_launcher_that_stops_reading_in_the_middle_of_a_release_ends_in_time(tmp_path):
    """More waits for it than the kernel takes, so that not even a goodbye goes through."""
    secrets = {**SECRETS, **{f"large_{number}": bytes(1 << 20) for number in range(12)}}
    port, stalled = pick_port(0), threading.Event()
    contract = contract_at(port)
    document = policy_document(contract, secrets=dict.fromkeys(secrets, ("launcher",)))

    def stall(towards_server, data):
        if not towards_server and len(data) > 20_000:  # no handshake has as much at once
            stalled.wait(20)
            raise ConnectionAbortedError
        return data

    party = ChannelParty(
        attester=launcher_tee(),
        anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,)),
        launch=contract.digest(),
    )
    with (
        running_broker(
            tmp_path,
            contract=contract,
            document=document,
            secrets=secrets,
            limits=PATIENT,
            port=port,
        ) as broker,
        malicious_server(lambda network: relay(network, port, stall)) as front,
        attested_tunnel("127.0.0.1", front, party=party, judge=lambda peer: peer) as tunnel,
        grpc.insecure_channel(
            tunnel.target, options=[("grpc.http2.lookahead_bytes", 1 << 30)]
        ) as connection,
    ):
        with in_time(PATIENT.max_age_seconds + 2):
            call = connection.unary_unary(METHOD).future(encode_request(tuple(secrets)))
            wait_until(lambda: bool(broker.lines("released")))
            wait_until(lambda: bool(broker.lines("closed")))
        stalled.set()
        call.cancel()


def test_an_open_channel_that_is_idle_ends_at_its_age(broker):
    with attacking(broker.port) as peer, in_time(PATIENT.max_age_seconds + 2):
        peer.read_frame()
        peer.present(launcher_tee(), launch=broker.contract.digest())
        assert peer.read_frame() == (ACCEPTED, b"")
        peer.read_to_the_end()
    wait_until(lambda: bool(broker.lines("closed")))


GARBAGE = {
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "zeros": bytes(100_000),
    "noise": os.urandom(100_000),
    "a record that is too long": b"\x16\x03\x03\xff\xff" + bytes(65535),
    "an alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "inner data": b"\x17\x03\x03\x00\x10" + bytes(16),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000),
    "ssl 2": b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + bytes(40),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_in_place_of_tls_ends_the_connection(broker, what):
    with connected(broker.port) as network, in_time():
        with contextlib.suppress(ConnectionError):
            network.sendall(GARBAGE[what])
        ended(network)
    assert broker.refused_for() == ["channel.tls"]


def test_garbage_in_place_of_the_inner_protocol_ends_the_connection(broker):
    with attacking(broker.port) as peer, in_time(PATIENT.max_age_seconds + 2):
        peer.read_frame()
        peer.present(launcher_tee(), launch=broker.contract.digest())
        assert peer.read_frame() == (ACCEPTED, b"")
        with contextlib.suppress(OSError, SSL.Error):
            peer.send(GARBAGE["noise"])
        peer.read_to_the_end()
    assert broker.released() == []


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("when", ["at once", "in the hello", "after tls", "in evidence", "open"])
def test_a_connection_that_is_cut_leaves_nothing_behind(broker, when, reset):
    with connected(broker.port) as network:
        if reset:
            network.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if when == "in the hello":
            network.sendall(hello()[:100])
        elif when != "at once":
            peer = MaliciousPeer(network).handshake()
            peer.read_frame()
            if when == "in evidence":
                peer.send(frame_header(EVIDENCE, 1000) + bytes(500))
            if when == "open":
                peer.present(launcher_tee(), launch=broker.contract.digest())
                assert peer.read_frame() == (ACCEPTED, b"")
    if when == "open":
        wait_until(lambda: [line["event"] for line in broker.lines()] == ["opened", "closed"])
    else:
        assert broker.refused_for()[0] in {"channel.cut", "channel.lost"}


WRONG = {
    "no protocol name": {"alpn": ()},
    "http/2": {"alpn": (b"h2",)},
    "a later version of ours": {"alpn": (b"casemate-attested-channel/2",)},
    "tls 1.2": {"version": SSL.TLS1_2_VERSION},
    "no certificate": {"certificate": False},
    "an RSA key": {"key": tls_key_of(rsa.generate_private_key(65537, 2048))},
    "a key on P-384": {"key": tls_key_of(ec.generate_private_key(ec.SECP384R1()))},
}
CODES = {
    "no protocol name": "channel.alpn",
    "http/2": "channel.alpn",
    "a later version of ours": "channel.alpn",
    "an RSA key": "channel.key-type",
    "a key on P-384": "channel.key-type",
}


@pytest.mark.parametrize("what", WRONG)
def test_another_kind_of_tls_is_refused_by_a_broker(broker, what):
    with connected(broker.port) as network, in_time(), contextlib.suppress(SSL.Error, OSError):
        peer = MaliciousPeer(network, **WRONG[what]).handshake()
        assert peer.read() == b"", "it showed its evidence"
    assert broker.refused_for() == [CODES.get(what, "channel.tls")]


@pytest.mark.parametrize("what", WRONG)
def test_another_kind_of_tls_is_refused_by_a_launcher(what):
    def serve(network):
        with contextlib.suppress(SSL.Error, OSError):
            peer = MaliciousPeer(network, server=True, **WRONG[what]).handshake()
            peer.present(BROKER_KEY)
            assert peer.read() == b""

    with malicious_server(serve) as port, in_time(), pytest.raises(CasemateError) as caught:
        fetched(contract_at(port))
    # OpenSSL itself ends a handshake in which the server takes a name that wasn't offered.
    code = {"http/2": "channel.tls", "a later version of ours": "channel.tls"}.get(what)
    assert caught.value.code == (code or CODES.get(what, "channel.tls"))


def test_connections_beyond_the_limit_are_closed_at_once_and_the_rest_go_on(hasty):
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(hasty.port)) for _ in range(HASTY.max_connections)]
        wait_until(lambda: refused_at_once(hasty.port))
        with in_time(), contextlib.suppress(UnavailableError):
            fetched(hasty.contract)  # "not now", which a launcher tries again
        with in_time():
            for network in idle:
                ended(network)
    assert set(hasty.refused_for()) == {"channel.timeout"}


def refused_at_once(port):
    with connected(port) as network:
        network.settimeout(0.2)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return network.recv(1) == b""
        return False


def test_a_crowd_of_connections_ends_in_time(hasty):
    """Far more than the limit, of every kind at once."""
    done = []

    def attack(number):
        with contextlib.suppress(OSError, SSL.Error, AssertionError), connected(hasty.port) as n:
            if number % 3 == 0:
                n.sendall(GARBAGE["noise"])
            elif number % 3 == 1:
                MaliciousPeer(n).handshake().read_frame()
            ended(n)
        done.append(number)

    with in_time(2 * AT_MOST):
        threads = [threading.Thread(target=attack, args=(number,)) for number in range(60)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(done) == 60


SERVERS = {
    "nothing": lambda network: ended(network),
    "garbage": lambda network: (network.sendall(GARBAGE["noise"]), ended(network)),
    "the end": lambda network: None,
    "a cut hello": lambda network: network.sendall(b"\x16\x03\x03\x00\x7a\x02\x00"),
}


@pytest.mark.parametrize("what", SERVERS)
def test_a_launcher_ends_in_time_too(what):
    party = ChannelParty(attester=launcher_tee(), anchors=TrustAnchors())
    with (
        malicious_server(lambda network: suppressed(lambda: SERVERS[what](network))) as port,
        in_time(),
        pytest.raises(CasemateError) as caught,
        attested_tunnel("127.0.0.1", port, party=party, judge=lambda peer: peer, limits=HASTY),
    ):
        pass
    assert caught.value.code in {"channel.timeout", "channel.tls", "channel.cut", "channel.lost"}


def test_a_launcher_that_gets_evidence_slowly_ends_in_time():
    party = ChannelParty(
        attester=launcher_tee(), anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,))
    )

    def serve(network):
        peer = MaliciousPeer(network, server=True).handshake()
        with contextlib.suppress(OSError, SSL.Error):
            for byte in frame_header(EVIDENCE, 1000) + bytes(45):
                peer.send(bytes([byte]))
                time.sleep(0.05)

    with (
        malicious_server(serve) as port,
        pytest.raises(UnavailableError) as caught,
        in_time(),
        attested_tunnel("127.0.0.1", port, party=party, judge=lambda peer: peer, limits=HASTY),
    ):
        pass
    assert caught.value.code == "channel.timeout"


def test_a_launcher_judges_a_frame_by_its_header_too():
    def serve(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.send(frame_header(EVIDENCE, MAX_FRAME + 1))
        assert peer.read() == b""

    with malicious_server(serve) as port, in_time(), pytest.raises(MalformedError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "channel.frame"
