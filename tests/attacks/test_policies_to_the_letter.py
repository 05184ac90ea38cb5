"""Genuine launchers against a subtle policy: what it doesn't quite accept, it refuses."""

import dataclasses
import datetime
import json
from contextlib import contextmanager

import pytest
from tests.support.attested import (
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)

from casemate.errors import MalformedError
from casemate.evidence import Tee
from casemate.policy.condition import Condition
from casemate.policy.fields import FIELDS
from casemate.policy.known import PUBLIC_SIGNERS
from casemate.policy.occlum import policy_from_occlum
from casemate.project.programs import pick_port

NOW = datetime.datetime.now(datetime.UTC)
HOUR = datetime.timedelta(hours=1)


def condition(text):
    return Condition.compile(text, FIELDS[Tee.SIMULATED], (), where="condition")


@contextmanager
def broker(folder, **changes):
    """One whose policy accepts the launcher but for what is changed."""
    contract = contract_at(port := pick_port(0))
    document = policy_document(contract)
    (policy,) = document.policies.values()
    alternatives = tuple(dataclasses.replace(each, **changes) for each in policy.alternatives)
    changed = dataclasses.replace(
        document, policies={policy.name: dataclasses.replace(policy, alternatives=alternatives)}
    )
    with running_broker(folder, contract=contract, document=changed, port=port) as running:
        yield running.contract


def test_an_alternative_lets_in_until_its_end(tmp_path):
    with broker(tmp_path, expires=NOW + HOUR) as contract:
        assert fetched(contract, launcher_tee(), timeout=3.0) == SECRETS


def test_an_alternative_that_has_ended_lets_nobody_in(tmp_path):
    with broker(tmp_path, expires=NOW - HOUR) as contract:
        assert refusal_of(contract, launcher_tee()) == "policy.mismatch"


def test_a_condition_that_holds_lets_in(tmp_path):
    with broker(tmp_path, condition=condition("svn >= 1 && !debug")) as contract:
        assert fetched(contract, launcher_tee(), timeout=3.0) == SECRETS


@pytest.mark.parametrize("text", ["svn > 100", "svn / 0 == 1 || svn < 0"])
def test_a_condition_that_is_false_or_fails_lets_nobody_in(tmp_path, text):
    with broker(tmp_path, condition=condition(text)) as contract:
        assert refusal_of(contract, launcher_tee()) == "policy.mismatch"


@pytest.mark.parametrize("signer", sorted(value.hex() for value in PUBLIC_SIGNERS))
def test_enclaves_are_not_accepted_for_a_signature_that_anybody_can_make(signer):
    """As the reference's own demo is configured: the default key's enclaves, whatever they are."""
    off = dict.fromkeys(
        ("verify_mr_enclave", "verify_isv_prod_id", "verify_isv_svn", "verify_config_svn"), "off"
    )
    on = {"verify_mr_signer": "on", "verify_enclave_debuggable": "on"}
    entry = {"mr_enclave": "", "mr_signer": signer, "isv_prod_id": 0, "isv_svn": 0,
             "config_svn": 0, "debuggable": False}  # fmt: skip
    with pytest.raises(MalformedError):
        policy_from_occlum(json.dumps({**off, **on, "sgx_mrs": [entry]}).encode())
