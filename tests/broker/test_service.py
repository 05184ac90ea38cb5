"""The broker's method where something fails that is no matter of the peer's."""

import json
import os
import re
import threading

import grpc
import pytest
from tests.support.attested import SECRETS, fetched, launcher_tee, refusal_of
from tests.support.broker_program import broker_folder

from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty
from casemate.protocol.key_broker import METHOD, encode_request
from casemate.verify import TrustAnchors


@pytest.fixture
def here(tmp_path):
    return broker_folder(tmp_path)


def tunnel_to(here):
    party = ChannelParty(
        attester=launcher_tee(),
        anchors=TrustAnchors(identity_keys=(here.contract.broker.key,)),
        launch=here.contract.digest(),
    )
    host, port = here.contract.broker.endpoint
    return attested_tunnel(host, port, party=party, judge=lambda peer: peer)


def pipe_that_takes(lines, path):
    """A pipe in place of the audit trail, whose reader leaves after some lines."""
    os.mkfifo(path)
    taken = []

    def read():
        with path.open("rb") as stream:
            taken.extend(stream.readline() for _ in range(lines))

    thread = threading.Thread(target=read)
    thread.start()
    return thread, taken


@pytest.mark.parametrize(
    "names", [tuple(SECRETS), ("no_such_key",), ()], ids=["released", "refused", "malformed"]
)
def test_what_can_not_be_written_down_is_an_outage_without_a_reason(here, names):
    """The channel's opening is in the trail; the call can't be."""
    pipe = here.folder / "pipe"
    reader, taken = pipe_that_takes(1, pipe)
    with (
        here.running(audit=pipe, ends_with=2),
        tunnel_to(here) as tunnel,
        grpc.insecure_channel(tunnel.target) as connection,
    ):
        reader.join(10)
        assert [json.loads(line)["event"] for line in taken] == ["opened"]
        with pytest.raises(grpc.RpcError) as caught:
            connection.unary_unary(METHOD)(encode_request(names), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == ""
    log = here.log.read_bytes()
    assert b"BrokenPipeError" in log  # whose broker it is does learn the reason
    assert not [value for value in SECRETS.values() if value in log]


def test_a_log_that_traces_all_of_grpc_holds_no_secret(here, monkeypatch):
    monkeypatch.setenv("GRPC_VERBOSITY", "debug")
    monkeypatch.setenv("GRPC_TRACE", "all")
    monkeypatch.setenv("SSLKEYLOGFILE", str(here.folder / "keys-of-tls"))
    with here.running():
        assert fetched(here.contract) == SECRETS
        assert refusal_of(here.contract, launcher_tee(debug=True)) == "policy.mismatch"
    log = here.log.read_bytes()
    assert b"chttp2" in log
    for value in SECRETS.values():
        for form in (value, value.hex().encode(), value.hex(" ").encode()):
            assert form not in log
    keys = here.folder / "keys-of-tls"  # Python's ssl begins one if another test's thread asks
    assert not keys.exists() or not re.search(rb"SECRET|RANDOM", keys.read_bytes())
