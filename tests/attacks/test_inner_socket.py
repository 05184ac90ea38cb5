"""A local process reaches the broker's inner socket, past TLS and attestation (P6).

It runs as the broker's own user: nobody else gets into the folder at all.
"""

import contextlib
import os
import socket
import stat
import tempfile
import threading
from pathlib import Path

import grpc
import pytest
from tests.support.attested import (
    BROKER_KEY,
    SECRETS,
    launcher_tee,
    running_broker,
    wait_until,
)

from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty
from casemate.protocol.key_broker import METHOD, encode_request, parse_reply
from casemate.verify import TrustAnchors

NAMES = tuple(SECRETS)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where sockets' folders are made: short, as paths of sockets must be.

    pytest's own folder comes first, so that it isn't made in here.
    """
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


@pytest.fixture
def broker(folder, tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


@pytest.fixture
def inner(folder, broker):
    (inner,) = folder.glob("casemate-*/key-broker")
    return inner


@pytest.fixture
def live(inner, broker):
    """The path that stands for an honest launcher whose channel is open."""
    with tunnel_to(broker) as tunnel, connection_to(tunnel.target) as launcher:
        released = parse_reply(ask(launcher), names=NAMES)
        assert {name: secret.reveal() for name, secret in released.items()} == SECRETS
        (path,) = inner.parent.glob("peer-*")
        yield path
        ask(launcher)  # it is connected to the end


def tunnel_to(broker):
    """An honest launcher's channel."""
    party = ChannelParty(
        attester=launcher_tee(),
        anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,)),
        launch=broker.contract.digest(),
    )
    return attested_tunnel("127.0.0.1", broker.port, party=party, judge=lambda peer: peer)


def connection_to(target):
    return grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])


def ask(connection):
    return connection.unary_unary(METHOD)(encode_request(NAMES), timeout=5)


def assert_unauthenticated(target):
    with connection_to(target) as connection, pytest.raises(grpc.RpcError) as caught:
        ask(connection)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "broker.no-channel 0"


@contextlib.contextmanager
def from_socket(bound_to, inner):
    """A way to the inner socket on which every connection comes from one that has this name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place, socket.socket(socket.AF_UNIX) as entry:
        entry.bind(f"{place}/entry")
        entry.listen()
        entry.settimeout(5)

        def pump(source, sink):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def run():
            with entry.accept()[0] as near, socket.socket(socket.AF_UNIX) as far:
                far.bind(bound_to)
                far.connect(str(inner))
                back = threading.Thread(target=pump, args=(far, near))
                back.start()
                pump(near, far)
                back.join()

        thread = threading.Thread(target=run)
        thread.start()
        yield f"unix:{place}/entry"
        thread.join(10)
        assert not thread.is_alive()


def test_the_folder_lets_nobody_else_in(inner):
    assert stat.S_IMODE(inner.parent.stat().st_mode) == 0o700


def test_a_connection_from_nowhere_gets_nothing(inner, broker):
    assert_unauthenticated(f"unix:{inner}")
    assert broker.refused_for() == ["broker.no-channel"]
    assert broker.released() == []


def test_a_connection_from_nowhere_gets_nothing_while_a_launcher_is_connected(inner, live, broker):
    assert_unauthenticated(f"unix:{inner}")
    assert len(broker.lines("released")) == 1  # the launcher's own


def test_a_connection_from_a_name_like_a_launchers_gets_nothing(inner, live, folder):
    (folder / "x").mkdir()
    for name in (
        str(live.with_name("peer-" + "0" * 32)),
        str(live) + "0",
        str(folder / "x" / live.name),
        f"\0{live}",  # of the abstract kind: no file at all
        f"\0unix:{live}",
        os.path.relpath(live.with_name("peer-0")),
    ):
        with from_socket(name, inner) as target:
            assert_unauthenticated(target)


def test_the_name_of_a_launcher_that_has_gone_is_worth_nothing(inner, broker):
    with tunnel_to(broker) as tunnel, connection_to(tunnel.target) as launcher:
        ask(launcher)
        (left,) = inner.parent.glob("peer-*")
    wait_until(lambda: not left.exists())
    with from_socket(str(left), inner) as target:
        assert_unauthenticated(target)
