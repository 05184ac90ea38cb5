"""The client's end: a tunnel for one connection of this very process."""

import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.attested import BROKER_KEY, launcher_tee, running_broker, wait_until
from tests.support.malicious_peer import ACCEPTED, MaliciousPeer, malicious_server

from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty, Limits
from casemate.errors import NotAcceptableError, UnavailableError
from casemate.project.programs import pick_port
from casemate.verify import TrustAnchors

PARTY = ChannelParty(
    attester=launcher_tee(), anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,))
)


def tunnel_to(port, judge=lambda peer: peer, party=PARTY):
    limits = Limits(handshake_seconds=5)
    return attested_tunnel("127.0.0.1", port, party=party, judge=judge, limits=limits)


def accept(network):
    """Play the server until the channel is open."""
    peer = MaliciousPeer(network, server=True).handshake()
    peer.present(BROKER_KEY)
    peer.read_frame()
    peer.send_frame(ACCEPTED, b"")
    return peer


def connection_to(tunnel):
    local = socket.socket(socket.AF_UNIX)
    local.settimeout(5)
    local.connect(tunnel.target.removeprefix("unix:"))
    return local


def test_a_tunnel_carries_bytes_both_ways_and_leaves_nothing_behind():
    def echo(network):
        peer = accept(network)
        while data := peer.read():
            peer.send(data[::-1])

    with malicious_server(echo) as port, tunnel_to(port) as tunnel:
        folder = Path(tunnel.target.removeprefix("unix:")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        with connection_to(tunnel) as local:
            local.sendall(b"hello")
            assert local.recv(100) == b"olleh"
    assert not folder.exists()


def test_what_the_server_says_at_once_is_not_lost():
    def greet(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.present(BROKER_KEY)
        peer.read_frame()
        peer.send(bytes([ACCEPTED, 0, 0, 0, 0]) + b"first")
        peer.send(b" second")
        peer.read_to_the_end()

    with malicious_server(greet) as port, tunnel_to(port) as tunnel:
        time.sleep(0.1)
        with connection_to(tunnel) as local:
            data = b""
            while len(data) < 12:
                data += local.recv(100)
    assert data == b"first second"


def test_the_end_of_either_side_is_the_end_of_the_other():
    ended = []

    def serve(network):
        ended.append(accept(network).read_to_the_end())

    with malicious_server(serve) as port, tunnel_to(port) as tunnel:
        connection_to(tunnel).close()
    assert ended == [b""]

    with (
        malicious_server(accept) as port,  # and then it ends
        tunnel_to(port) as tunnel,
        connection_to(tunnel) as local,
    ):
        assert local.recv(100) == b""


CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as local:
    local.settimeout(5)
    local.connect(sys.argv[1])
    try:
        local.sendall(b"from another process")
        print(len(local.recv(100)))
    except OSError:
        print(0)
"""


def test_another_process_gets_nothing_through_the_tunnel():
    heard = []

    def serve(network):
        heard.append(accept(network).read_to_the_end())

    with malicious_server(serve) as port, tunnel_to(port) as tunnel:
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, tunnel.target.removeprefix("unix:")],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    assert done.stdout.strip() == "0"
    assert heard == [b""]


def test_a_server_that_the_caller_refuses_gets_no_evidence():
    told = []

    def serve(network):
        peer = MaliciousPeer(network, server=True).handshake()
        peer.present(BROKER_KEY)
        told.append(peer.read_refusal())

    def judge(peer):
        raise NotAcceptableError("test.no", "no")

    with (
        malicious_server(serve) as port,
        pytest.raises(NotAcceptableError) as caught,
        tunnel_to(port, judge),
    ):
        pass
    assert (caught.value.code, told) == ("test.no", ["test.no"])


def test_a_server_that_is_not_there_can_be_tried_again():
    with pytest.raises(UnavailableError) as caught, tunnel_to(pick_port(0)):
        pass
    assert caught.value.code == "channel.unreachable"
    assert caught.value.remedy


def test_a_name_that_is_nobodys_can_be_tried_again():
    limits = Limits(handshake_seconds=5)
    with (
        pytest.raises(UnavailableError),
        attested_tunnel("no.such.host.invalid", 1, party=PARTY, judge=id, limits=limits),
    ):
        pass


def launcher_of(broker):
    return ChannelParty(
        attester=launcher_tee(), anchors=PARTY.anchors, launch=broker.contract.digest()
    )


def test_a_tunnel_that_nobody_uses_ends_at_once(tmp_path):
    with running_broker(tmp_path) as broker:
        with tunnel_to(broker.port, party=launcher_of(broker)) as tunnel:
            began = time.monotonic()
        assert time.monotonic() - began < 2
        assert tunnel.group == "X25519MLKEM768"


def test_an_error_inside_the_block_passes_through_and_ends_the_channel(tmp_path):
    with running_broker(tmp_path) as broker:
        with pytest.raises(ZeroDivisionError), tunnel_to(broker.port, party=launcher_of(broker)):
            raise ZeroDivisionError
        wait_until(lambda: broker.lines("closed"))
