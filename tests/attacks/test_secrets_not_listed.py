"""A genuine, admitted launcher asks for what isn't its own (threat model, P7)."""

import dataclasses

import grpc
import pytest
from tests.support.attested import (
    BROKER_KEY,
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)

from casemate.channel.client import attested_tunnel
from casemate.channel.party import ChannelParty
from casemate.errors import UsageError
from casemate.policy import AtLeast
from casemate.project.programs import pick_port
from casemate.protocol.contract import SecretPlacement
from casemate.protocol.key_broker import METHOD, encode_request, parse_reply
from casemate.verify import TrustAnchors

MORE = {
    "other_key": b"canary-other-key-3d90",
    "both_key": b"canary-both-key-e2f1",
    "future_key": b"canary-future-key-88aa",
}
ALL = {**SECRETS, **MORE}


@pytest.fixture
def broker(tmp_path):
    """A broker for two launchers; ``both_key`` is for whoever is both, so for nobody."""
    port = pick_port(0)
    contract, other = contract_at(port), contract_at(port, argv=("/bin/other",))
    document = policy_document(
        contract,
        more={
            "other": policy_document(other),
            "newer": policy_document(contract, svn=AtLeast(1000)),
        },
        secrets={
            **dict.fromkeys(SECRETS, ("launcher",)),
            "other_key": ("other",),
            "both_key": ("launcher", "other"),
            "future_key": ("launcher", "newer"),
        },
    )
    with running_broker(
        tmp_path, contract=contract, document=document, secrets=ALL, port=port
    ) as broker:
        yield broker


def other_contract(broker):
    return dataclasses.replace(broker.contract, argv=("/bin/other",))


def tunnel_to(broker, contract):
    party = ChannelParty(
        attester=launcher_tee(),
        anchors=TrustAnchors(identity_keys=(BROKER_KEY.spki,)),
        launch=contract.digest(),
    )
    return attested_tunnel("127.0.0.1", broker.port, party=party, judge=lambda peer: peer)


class Asking:
    """A launcher that asks for any names, as often as it likes."""

    def __init__(self, connection):
        self._call = connection.unary_unary(METHOD)

    def __call__(self, *names):
        return self.raw(encode_request(names), names)

    def raw(self, request, names=()):
        reply = self._call(request, timeout=5)
        return {name: secret.reveal() for name, secret in parse_reply(reply, names=names).items()}

    def refused(self, *names):
        return self.refused_raw(encode_request(names))

    def refused_raw(self, request):
        with pytest.raises(grpc.RpcError) as caught:
            self._call(request, timeout=5)
        code, _, correlation_id = caught.value.details().partition(" ")
        return caught.value.code(), code, correlation_id


@pytest.fixture
def ask(broker):
    """Ask as the launcher whose contract the policy ``launcher`` names."""
    with (
        tunnel_to(broker, broker.contract) as tunnel,
        grpc.insecure_channel(tunnel.target) as connection,
    ):
        yield Asking(connection)


REFUSED = (grpc.StatusCode.PERMISSION_DENIED, "store.refused")


@pytest.mark.parametrize("name", sorted(MORE))
def test_a_secret_for_which_not_every_policy_holds_is_refused(broker, ask, name):
    assert ask.refused(name)[:2] == REFUSED
    assert broker.released() == []


@pytest.mark.parametrize("name", sorted(MORE))
def test_one_such_secret_spoils_the_whole_request(broker, ask, name):
    for names in ((*SECRETS, name), (name, *SECRETS)):
        assert ask.refused(*names)[:2] == REFUSED
    assert broker.released() == []
    assert ask(*SECRETS) == SECRETS  # without it the request is right


def test_each_launcher_gets_its_own_while_the_other_is_connected(broker, ask):
    with (
        tunnel_to(broker, other_contract(broker)) as tunnel,
        grpc.insecure_channel(tunnel.target) as connection,
    ):
        other = Asking(connection)
        assert other("other_key") == {"other_key": ALL["other_key"]}
        assert ask(*SECRETS) == SECRETS
        for name in (*SECRETS, "both_key"):
            assert other.refused(name)[:2] == REFUSED
        for name in ("other_key", "both_key"):
            assert ask.refused(name)[:2] == REFUSED


def test_a_name_that_is_not_there_looks_like_one_that_is_refused(ask):
    answers = {ask.refused(name) for name in ("other_key", "no_such_key", "", "../image_key", "*")}
    assert len(answers) == 1


@pytest.mark.parametrize(
    "request_bytes",
    [
        encode_request(()),
        encode_request(("image_key", "image_key")),
        encode_request(tuple(f"s{n}" for n in range(65))),
        b"\xff\xff\xff",
        b"",
    ],
    ids=["no names", "a name twice", "too many names", "no protobuf", "nothing"],
)
def test_a_request_that_is_malformed_gets_nothing(broker, ask, request_bytes):
    status, code, _ = ask.refused_raw(request_bytes)
    assert (status, code) == (grpc.StatusCode.INVALID_ARGUMENT, "key-broker.request")
    assert broker.released() == []


def test_a_request_that_is_far_too_large_gets_nothing_and_others_go_on(broker, ask):
    with pytest.raises(grpc.RpcError) as caught:
        ask(*(f"{n:0>64}" for n in range(2000)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert broker.released() == []
    assert fetched(broker.contract) == SECRETS


def test_a_secret_that_no_policy_names_is_nobodys(tmp_path):
    """It can't have been meant, so a broker doesn't start with one."""
    port = pick_port(0)
    contract = contract_at(port)
    surplus = {**SECRETS, "surplus": b"canary-surplus-77b0"}
    with (
        pytest.raises(UsageError) as caught,
        running_broker(tmp_path, contract=contract, secrets=surplus, port=port),
    ):
        pass
    assert (caught.value.code, caught.value.field) == ("store.unreleasable", "surplus")


def test_a_contract_that_lists_another_launchers_secret_is_another_contract(broker):
    """To list it, the contract must change, and then its digest is nobody's."""
    placement = SecretPlacement(name="other_key", path="/etc/other", mode=0o400)
    greedy = dataclasses.replace(broker.contract, secrets=(*broker.contract.secrets, placement))
    assert refusal_of(greedy) == "policy.mismatch"
    assert broker.released() == []


def test_a_launcher_gets_what_its_contract_lists_and_no_more(broker):
    assert fetched(broker.contract) == SECRETS
    assert sorted(broker.released()) == sorted(SECRETS)


def test_the_trail_says_what_was_asked_for_and_which_policy_was_lacking(broker, ask):
    ask.refused("image_key", "both_key")
    (line,) = broker.lines("refused")
    assert line["secrets"] == ["image_key", "both_key"]
    assert line["policies"] == ["launcher"]
    (mismatch,) = line["error"]["mismatches"]
    assert (mismatch["where"], mismatch["expected"]) == ("secrets.both_key", "other")
