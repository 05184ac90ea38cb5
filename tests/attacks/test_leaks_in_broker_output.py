"""Whoever reads along looks for a secret in everything that a broker lets out (P13).

Its audit trail, its output and errors, its arguments and environment, and what it answers to peers
that get nothing. Every secret here is a canary that is known in all its usual forms.
"""

import base64
import contextlib
import json
import os
from pathlib import Path

import grpc
import pytest
from OpenSSL import SSL
from tests.support.attested import (
    BROKER_KEY,
    OTHER_ROOT,
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)
from tests.support.broker_program import broker_folder
from tests.support.malicious_peer import EVIDENCE, attacking, connected

from casemate.broker.store import SecretStore, load_secrets
from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty
from casemate.errors import CasemateError
from casemate.errors.render import render_error
from casemate.project.programs import pick_port
from casemate.protocol.key_broker import METHOD, encode_request
from casemate.types import Secret
from casemate.verify import TrustAnchors

LARGE = {f"large_{number}": b"canary-large-6bd1" + bytes(1 << 20)[17:] for number in range(17)}
OTHERS = {"other_key": b"canary-other-3d90"}


def forms(value):
    """How a secret could show: as it is, in hex, in base64, or as Python writes bytes."""
    value = value[:64].rstrip(b"\0")
    encoded = base64.b64encode(value).rstrip(b"=")[:-1]
    return [value, value.hex().encode(), value.hex().upper().encode(), encoded]


CANARIES = [form for value in (*SECRETS.values(), *OTHERS.values(), LARGE["large_0"])
            for form in forms(value)]  # fmt: skip


def assert_silent(*texts):
    for text in texts:
        content = text if isinstance(text, bytes) else text.encode(errors="surrogateescape")
        for canary in CANARIES:
            assert canary not in content


def abuse(port, contract):
    """Everything that a broker says no to; returns what it answers."""
    heard = []
    for tee in (launcher_tee(OTHER_ROOT), launcher_tee(debug=True), BROKER_KEY):
        heard.append(refusal_of(contract, tee).encode())
    for body in (b"", b"\xff" * 1000, b"\xa0"):
        with attacking(port) as peer:
            heard.append(peer.read())
            peer.send_frame(EVIDENCE, body)
            heard.append(peer.read_to_the_end())
    for data in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(5000), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with connected(port) as network, contextlib.suppress(ConnectionError):
            network.sendall(data)
            heard.append(network.recv(65536))
    with attacking(port) as peer, contextlib.suppress(SSL.Error):
        heard.append(peer.read())
        peer.present(launcher_tee(), launch=contract.digest())
        peer.send(b"no gRPC at all" * 100)
        heard.append(peer.read_to_the_end())
    return heard


def test_refusals_of_every_kind_say_nothing(tmp_path, capfd, caplog):
    port = pick_port(0)
    contract = contract_at(port)
    document = policy_document(
        contract,
        more={"other": policy_document(contract_at(1))},
        secrets={
            **dict.fromkeys((*SECRETS, *LARGE), ("launcher",)),
            **dict.fromkeys(OTHERS, ("other",)),
        },
    )
    secrets = {**SECRETS, **LARGE, **OTHERS}
    with running_broker(
        tmp_path, contract=contract, document=document, secrets=secrets, port=port
    ) as broker:
        heard = abuse(port, contract)
        party = ChannelParty(
            attester=launcher_tee(),
            anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,)),
            launch=contract.digest(),
        )
        with (
            attested_tunnel("127.0.0.1", port, party=party, judge=lambda peer: peer) as tunnel,
            grpc.insecure_channel(tunnel.target) as connection,
        ):
            call = connection.unary_unary(METHOD)
            for request in (
                b"\xff",
                encode_request(()),
                encode_request(tuple(LARGE)),
                encode_request(("other_key", *SECRETS)),
                encode_request((*SECRETS, "no_such_key")),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(request, timeout=10)
                heard.append(f"{caught.value.details()} {caught.value.debug_error_string()}")
                heard += [repr(caught.value.trailing_metadata())]
        assert fetched(contract) == SECRETS  # and a release says no more of them
        codes = {error["code"] for error in broker.refusals()}
    assert codes >= {
        "policy.mismatch",
        "channel.tls",
        "simulated.unknown-root",
        "store.refused",
        "key-broker.request",
        "key-broker.too-large",
    }
    output = capfd.readouterr()
    assert_silent(*heard, broker.audit.read_bytes(), output.out, output.err, caplog.text)


def test_a_release_that_can_not_be_written_down_is_none(tmp_path, capfd):
    """The disk of the trail is full: the secret stays, and the failure doesn't show it."""
    here = broker_folder(tmp_path)
    with (
        here.running(audit=Path("/dev/full"), ends_with=2),
        pytest.raises(CasemateError) as caught,
    ):
        fetched(here.contract)
    assert b"[broker.audit]" in here.log.read_bytes()
    assert_silent(here.log.read_bytes(), str(caught.value), repr(caught.value.as_dict()))


def test_the_program_shows_no_secret(tmp_path, monkeypatch):
    here = broker_folder(tmp_path)
    with here.running() as pid:
        heard = abuse(here.contract.broker.endpoint[1], here.contract)
        assert fetched(here.contract) == SECRETS
        shown = [Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")]
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert not [path for path in tmp_path.rglob("*") if holds_canary(path)]
    assert_silent(*heard, *shown, here.log.read_bytes(), here.audit.read_bytes())
    core = next(line for line in limits.splitlines() if line.startswith("Max core file"))
    assert core.split()[4:6] == ["0", "0"]


def holds_canary(path):
    """A file that a broker made; its secrets' own folder aside."""
    if not path.is_file() or path.parent.name == "secrets":
        return False
    return any(canary in path.read_bytes() for canary in CANARIES)


CANARY = SECRETS["image_key"]
ENCODED = base64.b64encode(CANARY).decode()
BROKEN = {
    "base64 with a stray character": json.dumps({"image_key": ENCODED + "!"}),
    "base64 with its trailing bits set": json.dumps({"image_key": ENCODED[:-2] + "x="}),
    "a secret that is no text": json.dumps({"image_key": [ENCODED]}),
    "json that is cut": json.dumps({"image_key": ENCODED})[:-2],
    "a secret twice": f'{{"image_key": "{ENCODED}", "image_key": "{ENCODED}"}}',
    "the secret itself, not as json": CANARY.decode(),
    "a byte that is no text": json.dumps({"image_key": ENCODED}) + "\udcff",
    "a secret that no policy names": json.dumps({"surplus": ENCODED}),
    "a list": json.dumps([ENCODED]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_secrets_that_can_not_be_loaded_are_not_shown(tmp_path, what):
    path = tmp_path / "secret_config.json"
    path.touch(mode=0o600)
    path.write_text(BROKEN[what], errors="surrogateescape")
    with pytest.raises(CasemateError) as caught:
        SecretStore(load_secrets(path), policy_document(contract_at(1)))
    error = caught.value
    assert_silent(str(error), repr(error), render_error(error), json.dumps(error.as_dict()))


@pytest.mark.parametrize("fault", ["readable by others", "too large", "a strange name"])
def test_a_secrets_file_that_can_not_be_used_is_not_shown(tmp_path, fault):
    here = broker_folder(tmp_path)
    folder = tmp_path / "secrets"
    if fault == "readable by others":
        (folder / "image_key").chmod(0o644)
    elif fault == "too large":
        (folder / "image_key").write_bytes(CANARY * 50_000)
    else:
        (folder / "image_key").rename(folder / "image key")
    for options in ((), ("--json",)):
        done = here.fails(*options)
        assert done.status == 2, done.stderr
        assert "image" in done.stderr
        assert_silent(done.stdout, done.stderr)


def test_objects_that_hold_secrets_do_not_show_them():
    secrets = {name: Secret(value) for name, value in SECRETS.items()}
    store = SecretStore(secrets, policy_document(contract_at(1)))
    for value in (store, vars(store), secrets, *secrets.values()):
        assert_silent(repr(value), str(value), f"{value}")
