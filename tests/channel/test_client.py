"""The client's end: one channel, for one connection of a local program."""

import contextlib
import socket

import pytest
from tests.support.attested import BROKER_KEY, launcher_tee, running_broker

from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty
from casemate.verify import TrustAnchors

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def path(broker):
    party = ChannelParty(
        attester=launcher_tee(),
        anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,)),
        launch=broker.contract.digest(),
    )
    with attested_tunnel("127.0.0.1", broker.port, party=party, judge=lambda _: _) as tunnel:
        yield tunnel.target.removeprefix("unix:")


@contextlib.contextmanager
def local_program(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        yield connection


def assert_refused(path):
    """At once: a connection that nobody takes would wait as long as its program does."""
    with pytest.raises(ConnectionRefusedError), local_program(path):
        pass


def test_a_second_connection_is_refused_at_once(path):
    with local_program(path) as first:
        first.sendall(PREFACE)
        assert first.recv(9)[3] == 4  # the broker's settings: the channel carries this one
        assert_refused(path)


def test_a_connection_after_the_channel_has_ended_is_refused_at_once(path, broker):
    with local_program(path) as first:
        first.sendall(PREFACE)
        assert first.recv(9)
        broker.stop()
        while first.recv(65536):
            pass
        assert_refused(path)
