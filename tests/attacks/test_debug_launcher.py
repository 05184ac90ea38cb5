"""A launcher that can be looked into: right code, right contract, memory open (P9)."""

import cbor2
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
from casemate.evidence import Evidence, Tee
from casemate.policy import AnyOf, PolicyDocument
from casemate.project.programs import pick_port
from casemate.types import ReportData

DEBUG = launcher_tee(debug=True)


@pytest.fixture
def broker(tmp_path):
    with running_broker(tmp_path) as broker:
        yield broker


def test_a_debuggable_launcher_is_refused_and_the_trail_says_why(broker):
    assert refusal_of(broker.contract, DEBUG) == "policy.mismatch"
    (line,) = broker.lines("refused")
    (mismatch,) = line["error"]["mismatches"]
    assert (mismatch["field"], mismatch["expected"], mismatch["got"]) == ("debug", "false", "true")
    assert line["claims"]["debug"] == "true"
    assert broker.released() == []
    assert fetched(broker.contract) == SECRETS  # nothing else was wrong


class Hiding:
    """Has evidence made of a debuggable launcher, and takes the mark off."""

    def attest(self, report_data: ReportData) -> Evidence:
        evidence = cbor2.loads(DEBUG.attest(report_data).data)
        report = cbor2.loads(evidence["report"])
        assert report["debug"] is True
        report["debug"] = False
        evidence["report"] = cbor2.dumps(report, canonical=True)
        return Evidence(tee=Tee.SIMULATED, data=cbor2.dumps(evidence, canonical=True))


def test_taking_the_mark_off_breaks_the_signature(broker):
    assert refusal_of(broker.contract, Hiding()) == "simulated.signature"


@pytest.mark.parametrize(
    "rule",
    [
        'debug = { unchecked = "it is convenient" }',
        "debug = { any_of = [true, false] }",
        "debug = { at_least = 0 }",
        "debug = { exactly = 0 }",
        "",
    ],
)
def test_no_policy_can_leave_it_unchecked(rule):
    text = policy_document(contract_at(1)).render()
    strict = "debug = { exactly = false }"
    assert strict in text
    with pytest.raises(MalformedError) as caught:
        PolicyDocument.parse(text.replace(strict, rule))
    assert "debug" in caught.value.field


def test_who_wants_debuggable_launchers_must_say_so(tmp_path):
    """And gets them alone: a policy for development is not one for anything else."""
    port = pick_port(0)
    contract = contract_at(port)
    document = policy_document(contract, debug=AnyOf((True,)))
    with running_broker(tmp_path, contract=contract, document=document, port=port):
        assert fetched(contract, DEBUG) == SECRETS
        assert refusal_of(contract) == "policy.mismatch"
