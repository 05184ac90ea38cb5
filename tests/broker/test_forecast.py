"""A broker's trail warns at a release of launchers that won't be accepted any more."""

import datetime
from dataclasses import replace

import pytest
from tests.attacks.test_hardware_on_channels import ROOTS, TODAY, Guest, policy
from tests.support.attested import SECRETS, contract_at, fetched, policy_document, running_broker

from casemate.policy import PolicyDocument
from casemate.project.programs import pick_port
from casemate_testkit.pki import DAY


@pytest.mark.parametrize(("ahead", "told"), [(1, False), (5, True)])
def test_a_launcher_whose_alternative_ends(tmp_path, ahead, told):
    contract = contract_at(port := pick_port(0))
    document = policy(contract)
    (alternative,) = document.policies["launcher"].alternatives
    ends = replace(alternative, expires=TODAY + 3 * DAY)
    launcher = replace(document.policies["launcher"], alternatives=(ends,))
    document = PolicyDocument(policies={"launcher": launcher}, secrets=document.secrets)
    with running_broker(
        tmp_path, contract=contract, document=document, port=port, vendors=ROOTS,
        forecast=datetime.timedelta(days=ahead),
    ) as broker:  # fmt: skip
        assert fetched(contract, Guest(), timeout=3.0) == SECRETS
        (line,) = broker.lines("released")
    assert ("forecast" in line) is told
    if told:
        (found,) = line["forecast"]
        assert (found["kind"], found["passes"], found["field"]) == ("ends", False, "expires")
        at = datetime.datetime.fromisoformat(found["at"])
        assert abs(at - (TODAY + 3 * DAY)) < datetime.timedelta(minutes=2)


def test_hardware_whose_certificates_end(tmp_path):
    contract = contract_at(port := pick_port(0))
    with running_broker(
        tmp_path, contract=contract, document=policy(contract), port=port, vendors=ROOTS,
        forecast=datetime.timedelta(days=40),
    ) as broker:  # fmt: skip
        assert fetched(contract, Guest(), timeout=3.0) == SECRETS
        (line,) = broker.lines("released")
    assert [each["code"] for each in line["forecast"]] == ["snp.expired"]


def test_of_what_does_not_end_nothing_is_told(tmp_path):
    contract = contract_at(port := pick_port(0))
    document = policy_document(contract)
    with running_broker(tmp_path, contract=contract, document=document, port=port) as broker:
        assert fetched(contract) == SECRETS
        (line,) = broker.lines("released")
    assert "forecast" not in line


def test_a_simulated_launcher_whose_alternative_ends(tmp_path):
    contract = contract_at(port := pick_port(0))
    document = policy_document(contract)
    (alternative,) = document.policies["launcher"].alternatives
    ends = replace(alternative, expires=TODAY + 3 * DAY)
    launcher = replace(document.policies["launcher"], alternatives=(ends,))
    document = replace(document, policies={"launcher": launcher})
    with running_broker(tmp_path, contract=contract, document=document, port=port) as broker:
        assert fetched(contract) == SECRETS
        (line,) = broker.lines("released")
    assert [each["field"] for each in line["forecast"]] == ["expires"]
