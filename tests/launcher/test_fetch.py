"""Fetching secrets: a launcher waits for its broker, and for nobody else."""

import threading
import time

import pytest
from tests.support.attested import (
    OTHER_KEY,
    SECRETS,
    contract_at,
    fetched,
    running_broker,
    wait_until,
)
from tests.support.malicious_peer import connected, malicious_server

from casemate.channel.party import Limits, RefusedByPeerError
from casemate.errors import NotGenuineError, UnavailableError
from casemate.project.programs import pick_port


def test_a_launcher_waits_for_a_broker_that_is_not_there_yet(tmp_path):
    contract = contract_at(pick_port(0))
    got = []
    launcher = threading.Thread(target=lambda: got.append(fetched(contract, timeout=10)))
    launcher.start()
    time.sleep(0.3)
    with running_broker(tmp_path, contract=contract, port=contract.broker.endpoint[1]):
        launcher.join(10)
    assert got == [SECRETS]


def test_a_launcher_waits_for_a_broker_that_is_full(tmp_path):
    """A full broker ends connections without a word: that says nothing against either side."""
    limits = Limits(max_connections=1, handshake_seconds=5)
    with running_broker(tmp_path, limits=limits) as broker:
        got = []
        launcher = threading.Thread(target=lambda: got.append(fetched(broker.contract, timeout=10)))
        with connected(broker.port):
            wait_until(lambda: refused_at_once(broker.port))
            launcher.start()
            time.sleep(0.3)
            assert got == []
        launcher.join(10)
    assert got == [SECRETS]


def refused_at_once(port):
    with connected(port) as network:
        network.settimeout(0.2)
        try:
            return network.recv(1) == b""
        except TimeoutError:
            return False


def test_a_launcher_gives_up_when_its_time_is_over():
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        fetched(contract_at(pick_port(0)), timeout=0.3)
    assert caught.value.code == "channel.unreachable"
    assert time.monotonic() - began < 2


def test_a_connection_that_is_cut_is_tried_again_and_is_no_verdict():
    with (
        malicious_server(lambda network: network.recv(100)) as port,
        pytest.raises(UnavailableError) as caught,
    ):
        fetched(contract_at(port))
    assert caught.value.code in {"channel.cut", "channel.lost"}


def test_a_launcher_does_not_try_a_wrong_broker_again(tmp_path):
    with running_broker(tmp_path, attester=OTHER_KEY) as broker:
        with pytest.raises(NotGenuineError) as caught:
            fetched(broker.contract, timeout=10)
        assert len(broker.refusals()) == 1
    assert caught.value.code == "identity-key.unknown"


def test_a_refused_launcher_does_not_try_again(tmp_path):
    with running_broker(tmp_path, contract=contract_at(1)) as broker:
        with pytest.raises(RefusedByPeerError) as caught:
            fetched(contract_at(broker.port), timeout=10)
        assert len(broker.refusals()) == 1
    assert caught.value.remote_code == "policy.mismatch"
