"""The server's end: joins attested connections to an inner server, and ends in order."""

import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.attested import (
    BROKER_KEY,
    SECRETS,
    fetched,
    launcher_tee,
    running_broker,
    wait_until,
)
from tests.support.malicious_peer import ACCEPTED, MaliciousPeer, attacking, connected

from casemate.broker.admission import admit
from casemate.errors import UsageError

_PATIENCE = 15.0
"""For how long what is slow waits for others to be served: longer than anybody waits for them."""


def test_a_server_that_stops_with_connections_open_ends_them_without_a_traceback(
    tmp_path, caplog, capfd
):
    with (
        running_broker(tmp_path) as broker,
        attacking(broker.port) as opened,
        attacking(broker.port) as halfway,
    ):
        opened.read_frame()
        opened.present(launcher_tee(), launch=broker.contract.digest())
        assert opened.read_frame() == (ACCEPTED, b"")
        halfway.read_frame()
        broker.stop()
        opened.read_to_the_end()
        halfway.read_to_the_end()
    assert [line["event"] for line in broker.lines()] == ["opened", "closed"]
    assert caplog.text == ""
    assert "Traceback" not in capfd.readouterr().err


def test_a_refusal_is_in_the_trail_when_the_peer_hears_of_it(tmp_path):
    with running_broker(tmp_path) as broker, attacking(broker.port) as peer:
        peer.read_frame()
        peer.present(launcher_tee())
        frame = peer.read_frame()
        (refused,) = broker.lines("refused")
        assert refused["correlation_id"].encode() in frame[1]


def test_a_port_that_is_taken_is_a_wrong_configuration(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("tests.support.attested.pick_port", lambda _: port)
        with pytest.raises(UsageError) as caught, running_broker(tmp_path):
            pass
    assert caught.value.code == "channel.listen"
    assert str(port) in caught.value.message


def test_launchers_that_come_at_once_each_get_their_own(tmp_path):
    with running_broker(tmp_path) as broker, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: fetched(broker.contract), range(24)))
        wait_until(lambda: len(broker.lines("closed")) == 24)
        opened = {line["correlation_id"] for line in broker.lines("opened")}
    assert got == [SECRETS] * 24
    assert len(opened) == 24
    assert {line["correlation_id"] for line in broker.lines("released")} == opened


def test_a_launcher_is_served_while_another_ones_evidence_takes_its_time(tmp_path):
    """Evidence is judged off the event loop: who is slow to judge holds up nobody else."""
    slow, served = threading.Event(), threading.Event()

    class SlowOnce:
        def attest(self, report_data):
            if not slow.is_set():
                slow.set()
                served.wait(_PATIENCE)
            return BROKER_KEY.attest(report_data)

    with running_broker(tmp_path, attester=SlowOnce()) as broker, connected(broker.port) as network:
        waiting = MaliciousPeer(network).handshake()
        assert slow.wait(5)
        assert fetched(broker.contract) == SECRETS
        served.set()
        assert waiting.read_frame()


def test_a_launcher_is_served_while_another_one_is_judged_slowly(tmp_path, monkeypatch):
    slow, served = threading.Event(), threading.Event()

    def admit_slowly_once(document, peer, *, at):
        if not slow.is_set():
            slow.set()
            served.wait(_PATIENCE)
        return admit(document, peer, at=at)

    monkeypatch.setattr("casemate.broker.run.admit", admit_slowly_once)
    with running_broker(tmp_path) as broker, attacking(broker.port) as waiting:
        waiting.read_frame()
        waiting.present(launcher_tee(), launch=broker.contract.digest())
        assert slow.wait(5)
        assert fetched(broker.contract) == SECRETS
        served.set()
        assert waiting.read_frame() == (ACCEPTED, b"")


def test_the_sockets_of_connections_that_ended_are_gone(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        with running_broker(tmp_path) as broker:
            for _ in range(3):
                fetched(broker.contract)
            wait_until(lambda: len(broker.lines("closed")) == 3)
            (folder,) = Path(place).glob("casemate-*")
            assert [path.name for path in folder.iterdir()] == ["key-broker"]
        wait_until(lambda: not folder.exists())
