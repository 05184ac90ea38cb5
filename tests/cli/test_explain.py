"""``casemate explain`` as a program, on published evidence."""

import json

from tests.support.policies import policy_text
from tests.support.published import FOLDER, needs_published

from casemate.project.programs import casemate_command, run_program

pytestmark = needs_published
MILAN = FOLDER / "snp" / "milan_v3_report.bin"
CHAIN = (
    *("--endorsements", str(FOLDER / "snp" / "chains" / "ask_ark_milan.pem")),
    *("--endorsements", str(FOLDER / "snp" / "milan_v3_vcek.pem")),
)
AT = ("--at", "2026-06-01T00:00:00Z")


def explain(tmp_path, evidence, constraints, tee="snp", *more):
    policy = tmp_path / "policy.toml"
    policy.write_text(policy_text(tee, constraints))
    done = run_program(
        casemate_command("explain", str(evidence), "--policy", str(policy), *more, "--json")
    )
    return done, json.loads(done.stdout) if done.status == 0 else None


def test_evidence_that_a_policy_refuses(tmp_path):
    constraints = {
        "measurement": f'exactly = "{"00" * 48}"',
        "debug": "exactly = false",
        "reported_tcb": "at_least = { snp = 25, microcode = 1 }",
        "revocation": 'exactly = "good"',
    }
    _, report = explain(tmp_path, MILAN, constraints, "snp", *CHAIN, *AT)
    assert [each["field"] for each in report["mismatches"]] == [
        "measurement", "reported_tcb", "revocation",
    ]  # fmt: skip
    assert 'any_of = ["0000' in report["proposals"][0]["toml"]
    assert (
        "reported_tcb = { at_least = { snp = 24, microcode = 1 } }"
        in report["proposals"][0]["toml"]
    )
    assert [reason.split(":")[0] for reason in report["proposals"][0]["unwise"]] == [
        "reported_tcb", "revocation",
    ]  # fmt: skip


def test_evidence_that_a_policy_accepts(tmp_path):
    constraints = {
        "measurement": 'exactly = "5feee30d6d7e1a29f403d70a4198237ddfb13051a2d6976439487c609388ed7'
        'f98189887920ab2fa0096903a0c23fca1"',
        "debug": "exactly = false",
    }
    _, report = explain(tmp_path, MILAN, constraints, "snp", *CHAIN, *AT)
    assert (report["accepted"], report["mismatches"]) == (True, [])


def test_evidence_of_another_tee(tmp_path):
    constraints = {"pcr0": f'exactly = "{"00" * 48}"', "debug": "exactly = false"}
    _, report = explain(tmp_path, MILAN, constraints, "nitro", *CHAIN, *AT)
    assert [each["field"] for each in report["mismatches"]] == ["tee"]
    assert report["proposals"] == []


def test_evidence_that_is_not_genuine(tmp_path):
    constraints = {"measurement": f'exactly = "{"00" * 48}"', "debug": "exactly = false"}
    _, report = explain(tmp_path, MILAN, constraints, "snp", *AT)
    assert report["error"]["cause"] == "can't decide now"
    assert "No change of a policy helps" in report["note"]


def test_evidence_needs_a_policy():
    done = run_program(casemate_command("explain", str(MILAN)))
    assert done.status == 2
    assert "--policy" in done.stderr
