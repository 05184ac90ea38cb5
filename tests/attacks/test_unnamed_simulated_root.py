"""Evidence that anybody can make, because it is simulated (threat model, P8).

A development root is a file that its user made. Nothing accepts one that a policy doesn't name.
"""

import dataclasses

import pytest
from tests.support.attested import (
    BROKER_KEY,
    OTHER_ROOT,
    ROOT,
    contract_at,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)

from casemate.errors import NotGenuineError
from casemate.evidence import Tee
from casemate.policy import Alternative, AnyOf, Policy, PolicyDocument
from casemate.project.programs import pick_port
from casemate.tee.identity_key import IdentityKey
from casemate.tee.simulated import DevelopmentRoot
from casemate.types import ReportData, sha256
from casemate.verify import TrustAnchors, verify_evidence


def test_a_root_that_no_policy_names_is_refused(tmp_path):
    with running_broker(tmp_path) as broker:
        assert refusal_of(broker.contract, launcher_tee(OTHER_ROOT)) == "simulated.unknown-root"
        (error,) = broker.refusals()
    assert error["expected"] == sha256(ROOT.spki).hex()
    assert error["got"] == sha256(OTHER_ROOT.spki).hex()
    assert broker.lines("opened") == []


class Pretender(DevelopmentRoot):
    """A root that says in its reports that it is another one."""

    def sign(self, report):
        return super().sign(dataclasses.replace(report, root=sha256(ROOT.spki)))


def test_a_root_that_only_bears_the_named_ones_id_is_refused(tmp_path):
    pretender = Pretender(OTHER_ROOT._key)
    with running_broker(tmp_path) as broker:
        assert refusal_of(broker.contract, launcher_tee(pretender)) == "simulated.signature"


def without_simulation(contract):
    """A policy for launchers that prove themselves with a key: nothing simulated is in it."""
    launch = AnyOf((bytes(contract.digest()),))
    alternative = Alternative(
        tee=Tee.IDENTITY_KEY, constraints={"key": AnyOf((BROKER_KEY.spki,)), "launch": launch}
    )
    policy = Policy(name="launcher", alternatives=(alternative,))
    return PolicyDocument(
        policies={"launcher": policy},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )


def test_where_no_policy_names_a_root_nothing_simulated_is_accepted(tmp_path):
    port = pick_port(0)
    contract = contract_at(port)
    with running_broker(
        tmp_path, contract=contract, document=without_simulation(contract), port=port
    ) as broker:
        for root in (ROOT, OTHER_ROOT):
            assert refusal_of(contract, launcher_tee(root)) == "simulated.unknown-root"
        assert {error["expected"] for error in broker.refusals(2)} == {"no simulated evidence"}


def test_a_key_that_is_trusted_as_a_peers_identity_is_no_root(tmp_path):
    """The very key that the policy names, but as another thing."""
    port = pick_port(0)
    contract = contract_at(port)
    root = DevelopmentRoot(BROKER_KEY._key)
    with running_broker(
        tmp_path, contract=contract, document=without_simulation(contract), port=port
    ):
        assert refusal_of(contract, launcher_tee(root)) == "simulated.unknown-root"


def test_a_named_root_is_no_identity_key(tmp_path):
    key = object.__new__(IdentityKey)
    key._key = ROOT._key
    with running_broker(tmp_path) as broker:
        assert refusal_of(broker.contract, key) == "identity-key.unknown"


def test_a_root_that_another_policy_names_does_not_do_for_this_one(tmp_path):
    """Both are genuine; the secrets demand the one."""
    port = pick_port(0)
    contract, other = contract_at(port), contract_at(port, argv=("/bin/other",))
    document = policy_document(
        contract,
        more={"other": policy_document(other, root=AnyOf((OTHER_ROOT.spki,)))},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )
    with running_broker(tmp_path, contract=contract, document=document, port=port) as broker:
        assert refusal_of(contract, launcher_tee(OTHER_ROOT)) == "policy.mismatch"
        assert refusal_of(other, launcher_tee(OTHER_ROOT)) == "store.refused"
    assert broker.released() == []


def test_there_is_no_root_that_is_trusted_by_itself():
    evidence = launcher_tee(OTHER_ROOT).attest(ReportData(bytes(64)))
    for anchors in (TrustAnchors(), TrustAnchors(identity_keys=(OTHER_ROOT.spki,))):
        with pytest.raises(NotGenuineError) as caught:
            verify_evidence(evidence, anchors=anchors)
        assert caught.value.code == "simulated.unknown-root"
