"""A refusal is explained from the broker's own trail, and what is proposed really accepts."""

import datetime
import json

import pytest
from tests.attacks import test_composite_evidence as composites
from tests.support.attested import (
    SECRETS,
    contract_at,
    fetched,
    launcher_tee,
    policy_document,
    refusal_of,
    running_broker,
)

from casemate.errors import MalformedError, UsageError
from casemate.policy import AtLeast, PolicyDocument
from casemate.policy.constraint import claimed
from casemate.project.audit_lines import choose_line, is_audit_trail
from casemate.project.explanation import explain_line
from casemate.project.programs import casemate_command, pick_port, run_program

NOON = "2026-06-01T12:00:00.000+00:00"


@pytest.fixture
def broker(tmp_path):
    port = pick_port(0)
    contract = contract_at(port)
    document = policy_document(
        contract,
        more={"newer": policy_document(contract, svn=AtLeast(1000))},
        secrets={**dict.fromkeys(SECRETS, ("launcher",)), "future_key": ("launcher", "newer")},
    )
    secrets = {**SECRETS, "future_key": b"canary"}
    with running_broker(
        tmp_path, contract=contract, document=document, secrets=secrets, port=port
    ) as broker:
        yield broker


def explained(broker, document=None):
    line = choose_line(broker.audit.read_bytes(), None)
    return explain_line(line, document or document_of(broker))


def document_of(broker):
    return PolicyDocument.parse((broker.audit.parent / "policy.toml").read_text())


def test_a_debuggable_launcher(broker):
    assert refusal_of(broker.contract, launcher_tee(debug=True)) == "policy.mismatch"
    found = explained(broker)
    assert (found.tee, found.accepted) == ("simulated", False)
    first = found.mismatches[0]
    assert (first.where, first.field, first.expected, first.got) == (
        "launcher[0]", "debug", "false", "true",
    )  # fmt: skip
    assert "look into its memory" in first.meaning
    assert first.change == "debug = { exactly = true }"
    assert "read every secret" in first.unwise
    assert found.proposals[0].where == "launcher[0]"
    assert found.proposals[0].toml == "debug = { exactly = true }"
    assert found.proposals[0].unwise[0].startswith("debug: ")
    assert any("protects nothing" in reason for reason in found.proposals[0].unwise)


def test_what_is_proposed_makes_the_broker_accept(broker):
    other = contract_at(broker.port, argv=("/bin/other",))
    assert refusal_of(other) == "policy.mismatch"
    found = explained(broker)
    assert [each.field for each in found.mismatches] == ["launch", "svn", "launch"]
    name, _, constraint = found.proposals[0].toml.partition(" = ")
    assert name == "launch"
    text = document_of(broker).render()
    old = next(line for line in text.splitlines() if line.startswith("launch = "))
    folder = broker.audit.parent / "again"
    folder.mkdir()
    document = PolicyDocument.parse(text.replace(old, f"launch = {constraint}", 1))
    broker.stop()
    secrets = {**SECRETS, "future_key": b"canary"}
    with running_broker(
        folder, contract=other, document=document, secrets=secrets, port=broker.port
    ):
        assert fetched(other) == SECRETS


def test_a_secret_that_demands_more(broker):
    line = {
        "time": "2026-06-01T00:00:00+00:00", "event": "refused", "correlation_id": "1",
        "secrets": ["future_key"], "error": {"code": "store.refused"},
    }  # fmt: skip
    assert refusal_of(broker.contract, launcher_tee(debug=True)) == "policy.mismatch"
    report = choose_line(broker.audit.read_bytes(), None)["report"]
    good = {**report, "claims": {**report["claims"], "debug": False}}
    found = explain_line({**line, "report": good}, document_of(broker))
    assert [(each.where, each.field) for each in found.mismatches] == [("newer[0]", "svn")]
    assert found.proposals[0].toml == "svn = { at_least = 1 }"
    assert "Older versions" in found.proposals[0].unwise[0]
    known = {**line, "secrets": ["image_key"], "report": good}
    assert explain_line(known, document_of(broker)).accepted
    with pytest.raises(UsageError, match="knows nothing"):
        explain_line({**line, "secrets": ["nobodys"], "report": good}, document_of(broker))


def test_without_a_policy_the_line_itself_is_explained(broker):
    assert refusal_of(broker.contract, launcher_tee(debug=True)) == "policy.mismatch"
    found = explain_line(choose_line(broker.audit.read_bytes(), None), None)
    assert found.mismatches[0].field == "debug"
    assert "read every secret" in found.mismatches[0].unwise
    assert found.proposals == ()
    assert "--policy" in found.note


def test_of_a_trail_the_last_refusal_or_the_named_one():
    lines = [
        {"time": NOON, "event": "refused", "correlation_id": "a", "error": {"code": "x"}},
        {"time": NOON, "event": "opened", "correlation_id": "b"},
        {"time": NOON, "event": "refused", "correlation_id": "c", "error": {"code": "y"}},
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    assert is_audit_trail(text)
    assert choose_line(text, None)["correlation_id"] == "c"
    assert choose_line(text, "a")["error"] == {"code": "x"}
    with pytest.raises(UsageError, match="no such refusal"):
        choose_line(text, "b")
    with pytest.raises(MalformedError):
        choose_line(text + b"\nnot json", None)
    found = explain_line(choose_line(text, None), None)
    assert found.error == {"code": "y"}
    assert not found.mismatches


@pytest.mark.parametrize(
    "change",
    [
        {"event": "opened"},
        {"error": "no"},
        {"time": "yesterday"},
        {"time": "2026-06-01T00:00:00"},
        {"report": {"tee": "other", "claims": {}}},
        {"report": {"tee": "composite", "claims": {}}},
        {"report": {"tee": {}, "claims": {}}},
        {"report": {"tee": "snp", "claims": {}, "gpus": {}}},
        {"report": {"tee": "snp", "claims": {}, "gpus": [1]}},
        {"report": {"tee": "simulated", "claims": []}},
        {"report": {"tee": "simulated", "claims": {"measurement": "zz"}}},
        {"report": {"tee": "simulated", "claims": {"svn": None}}},
        {"report": None, "error": {"mismatches": [1]}},
        {"report": None, "error": {"mismatches": [{"where": 1}]}},
    ],
)
def test_a_line_that_is_none(change):
    document = policy_document(contract_at(1))
    line = {
        "time": datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC).isoformat(),
        "event": "refused", "correlation_id": "a", "error": {"code": "x"},
        "report": {"tee": "simulated", "claims": {}},
    }  # fmt: skip
    assert explain_line(line, document).mismatches
    with pytest.raises(MalformedError):
        explain_line({**line, **change}, document)


def test_the_program(broker):
    assert refusal_of(broker.contract, launcher_tee(debug=True)) == "policy.mismatch"
    policy = broker.audit.parent / "policy.toml"
    done = run_program(casemate_command("explain", str(broker.audit), "--policy", str(policy)))
    assert done.status == 0, done.stderr
    assert "debug = { exactly = true }" in done.stdout
    assert "UNWISE, debug:" in done.stdout
    done = run_program(casemate_command("explain", str(broker.audit), "--json"))
    report = json.loads(done.stdout)
    assert report["mismatches"][0]["field"] == "debug"
    assert report["proposals"] == []


def test_gpus_of_a_machine(tmp_path):
    with composites._running(tmp_path, composites.policy) as broker:
        first, second, third = composites.devices()
        alone = composites.machine(composites.Gpu(first))
        assert refusal_of(broker.contract, alone) == "policy.mismatch"
        found = explained(broker)
        assert [(each.field, each.expected, each.got) for each in found.mismatches] == [
            ("gpus.count", "2", "1")
        ]
        assert found.proposals[0].toml == "gpus.count = { any_of = [2, 1] }"
        three = composites.machine(*map(composites.Gpu, (first, second, third)))
        assert refusal_of(broker.contract, three) == "policy.mismatch"
        assert "gpus.count = { any_of = [2, 3] }" in explained(broker).proposals[0].toml


def test_every_gpu_must_be_accepted(tmp_path):
    def strict(contract):
        return composites.policy(contract, driver_version=AtLeast("999"))

    with composites._running(tmp_path, strict) as broker:
        pair = composites.machine(*map(composites.Gpu, composites.devices()[:2]))
        assert refusal_of(broker.contract, pair) == "policy.mismatch"
        found = explained(broker)
    assert [each.field for each in found.mismatches] == [
        "gpus[0].driver_version", "gpus[1].driver_version",
    ]  # fmt: skip
    assert "GPU's driver" in found.mismatches[0].meaning
    assert found.proposals[0].toml.startswith("gpus.driver_version = { at_least = ")
    assert "Older versions" in found.proposals[0].unwise[0]


def test_a_condition_is_changed_by_hand():
    document = policy_document(contract_at(1))
    line = {
        "time": "2026-06-01T00:00:00+00:00", "event": "refused", "correlation_id": "a",
        "error": {"code": "policy.mismatch"},
    }  # fmt: skip
    claims = {
        "svn": 3, "debug": False, "platform_id": "00" * 32,
        "measurement": bytes(document_claims(document)["measurement"]).hex(),
        "root": bytes(document_claims(document)["root"]).hex(),
    }  # fmt: skip
    report = {"tee": "simulated", "claims": claims, "launch": str(contract_at(1).digest())}
    with_condition = PolicyDocument.parse(
        document.render().replace('tee = "simulated"', 'tee = "simulated"\ncondition = "svn > 5"')
    )
    found = explain_line({**line, "report": report}, with_condition)
    assert [each.field for each in found.mismatches] == ["condition"]
    assert found.proposals == ()


def document_claims(document):
    (alternative,) = document.policies["launcher"].alternatives
    return {
        field.name: claimed(field, constraint.values[0])
        for field, constraint in alternative.fields()
        if hasattr(constraint, "values")
    }


def test_what_would_not_be_accepted_then_either_is_not_proposed():
    """A condition is looked at only where all else holds: it may fail after the change."""
    document = policy_document(contract_at(1), svn=AtLeast(4))
    claims = {
        "svn": 3, "debug": False, "platform_id": "00" * 32,
        "measurement": bytes(document_claims(document)["measurement"]).hex(),
        "root": bytes(document_claims(document)["root"]).hex(),
    }  # fmt: skip
    line = {
        "time": "2026-06-01T00:00:00+00:00", "event": "refused", "correlation_id": "a",
        "error": {"code": "policy.mismatch"},
        "report": {
            "tee": "simulated", "claims": claims, "launch": str(contract_at(1).digest()),
        },
    }  # fmt: skip
    assert explain_line(line, document).proposals[0].toml == "svn = { at_least = 3 }"
    text = document.render().replace(
        'tee = "simulated"', 'tee = "simulated"\ncondition = "svn > 5"'
    )
    found = explain_line(line, PolicyDocument.parse(text))
    assert [each.field for each in found.mismatches] == ["svn"]
    assert found.proposals == ()


def test_of_two_policies_that_must_hold_each_gets_its_change():
    contract = contract_at(1)
    document = policy_document(
        contract, svn=AtLeast(4),
        more={"newer": policy_document(contract, svn=AtLeast(1000))},
        secrets={"both": ("launcher", "newer")},
    )  # fmt: skip
    claims = {
        "svn": 3, "debug": False, "platform_id": "00" * 32,
        "measurement": bytes(document_claims(document)["measurement"]).hex(),
        "root": bytes(document_claims(document)["root"]).hex(),
    }  # fmt: skip
    line = {
        "time": "2026-06-01T00:00:00+00:00", "event": "refused", "correlation_id": "a",
        "error": {"code": "store.refused"}, "secrets": ["both"],
        "report": {"tee": "simulated", "claims": claims, "launch": str(contract.digest())},
    }  # fmt: skip
    found = explain_line(line, document)
    assert [(each.where, each.toml) for each in found.proposals] == [
        ("launcher[0]", "svn = { at_least = 3 }"),
        ("newer[0]", "svn = { at_least = 3 }"),
    ]


def test_a_gpu_in_a_line_without_its_policy():
    mismatch = {
        "where": "launcher[0]", "field": "gpus[3].driver_version", "expected": "at least 2",
        "got": "1", "remedy": "r",
    }  # fmt: skip
    line = {
        "time": NOON, "event": "refused", "correlation_id": "a",
        "error": {"code": "policy.mismatch", "mismatches": [mismatch]},
    }  # fmt: skip
    (found,) = explain_line(line, None).mismatches
    assert "GPU's driver" in found.meaning
