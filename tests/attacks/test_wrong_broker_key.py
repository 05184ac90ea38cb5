"""The operator leads a launcher to a broker of its own (threat model, P4).

That broker is whole and works, would take any launcher, and would hand out keys that the operator
knows. Only its identity isn't the one in the contract.
"""

import dataclasses

import cbor2
import pytest
from tests.support.attested import (
    BROKER_KEY,
    OTHER_KEY,
    OTHER_ROOT,
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    running_broker,
)
from tests.support.malicious_peer import (
    EVIDENCE,
    MaliciousPeer,
    claims_of,
    malicious_server,
    message_of,
)

from casemate.errors import NotAcceptableError, NotGenuineError
from casemate.evidence import Evidence
from casemate.policy import Unchecked
from casemate.project.programs import pick_port
from casemate.protocol.contract import BrokerIdentity
from casemate.types import ReportData, sha256, sha384

BROKER_CODE = sha384(b"the broker's code")


def refused_broker(folder, contract, attester, error):
    """The code for which a launcher refuses a broker; the broker has learned nothing but it."""
    with running_broker(folder, contract=contract, attester=attester) as broker:
        identity = dataclasses.replace(contract.broker, address=f"127.0.0.1:{broker.port}")
        with pytest.raises(error) as caught:
            fetched(dataclasses.replace(contract, broker=identity))
        (refusal,) = broker.refusals()
        assert refusal["code"] == "channel.refused"
        assert refusal["got"] == caught.value.code
        assert broker.lines("opened", "released") == []
    return caught.value.code


@pytest.mark.parametrize(
    ("attester", "code"),
    [
        (OTHER_KEY, "identity-key.unknown"),
        (launcher_tee(), "simulated.unknown-root"),
        (launcher_tee(OTHER_ROOT), "simulated.unknown-root"),
    ],
    ids=["another key", "a TEE", "a TEE of the attacker's"],
)
def test_a_broker_other_than_the_pinned_key_is_refused(tmp_path, attester, code):
    assert refused_broker(tmp_path, contract_at(1), attester, NotGenuineError) == code


def contract_with_policy():
    """A contract that pins its broker by policy: a measured one in a TEE."""
    policy = policy_document(contract_at(1), launch=Unchecked("a broker has none")).render()
    return contract_at(1, broker=BrokerIdentity(address="127.0.0.1:1", policy=policy))


@pytest.mark.parametrize(
    ("attester", "code", "error"),
    [
        (launcher_tee(measurement=BROKER_CODE), "policy.mismatch", NotAcceptableError),
        (launcher_tee(debug=True), "policy.mismatch", NotAcceptableError),
        (launcher_tee(OTHER_ROOT), "simulated.unknown-root", NotGenuineError),
        (BROKER_KEY, "identity-key.unknown", NotGenuineError),
    ],
    ids=["another measurement", "debuggable", "another root", "an identity key"],
)
def test_a_broker_that_the_contracts_policy_does_not_accept_is_refused(
    tmp_path, attester, code, error
):
    assert refused_broker(tmp_path, contract_with_policy(), attester, error) == code


class Impostor:
    """Signs with one key and names another."""

    def __init__(self, named):
        self._named = named

    def attest(self, report_data: ReportData) -> Evidence:
        evidence = OTHER_KEY.attest(report_data)
        fields = {**cbor2.loads(evidence.data), "public-key": self._named}
        return dataclasses.replace(evidence, data=cbor2.dumps(fields, canonical=True))


def test_a_broker_that_only_names_the_pinned_key_is_refused(tmp_path):
    attester = Impostor(BROKER_KEY.spki)
    code = refused_broker(tmp_path, contract_at(1), attester, NotGenuineError)
    assert code == "identity-key.signature"


def test_a_signature_of_the_pinned_key_for_another_purpose_is_refused():
    """The key has signed the report data without the context, as some other program might."""

    def serve(network):
        peer = MaliciousPeer(network, server=True).handshake()
        claims = claims_of(peer.key.spki, nonce=peer.own_nonce)
        report_data = bytes(ReportData(sha256(claims) + bytes(32)))
        evidence = {
            "public-key": BROKER_KEY.spki,
            "report-data": report_data,
            "signature": BROKER_KEY._key.sign(report_data),
        }
        body = message_of("identity-key", cbor2.dumps(evidence, canonical=True), claims)
        peer.send_frame(EVIDENCE, body)
        assert peer.read_refusal() == "identity-key.signature"

    with malicious_server(serve) as port, pytest.raises(NotGenuineError) as caught:
        fetched(contract_at(port))
    assert caught.value.code == "identity-key.signature"


def test_a_broker_that_the_contracts_policy_accepts_is_right(tmp_path):
    port = pick_port(0)
    policy = contract_with_policy().broker.policy
    contract = contract_at(port, broker=BrokerIdentity(address=f"127.0.0.1:{port}", policy=policy))
    with running_broker(tmp_path, contract=contract, port=port, attester=launcher_tee()):
        assert fetched(contract) == SECRETS


def test_the_contract_decides_which_broker_is_right(tmp_path):
    """The same broker is right for who pins it: nothing else about it was wrong above."""
    port = pick_port(0)
    identity = BrokerIdentity(address=f"127.0.0.1:{port}", key=OTHER_KEY.spki)
    contract = contract_at(port, broker=identity)
    with running_broker(tmp_path, contract=contract, port=port, attester=OTHER_KEY):
        assert fetched(contract) == SECRETS
