"""``casemate explain`` as a program, on published evidence."""

import json

from tests.support.policies import policy_text
from tests.support.published import FOLDER, needs_published
from tests.support.simulation import Signer

from casemate.project.programs import casemate_command, run_program
from casemate.protocol.binding import Claims, encode_claims, report_data_for
from casemate.types import sha256, sha384

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


@needs_published
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


@needs_published
def test_evidence_that_a_policy_accepts(tmp_path):
    constraints = {
        "measurement": 'exactly = "5feee30d6d7e1a29f403d70a4198237ddfb13051a2d6976439487c609388ed7'
        'f98189887920ab2fa0096903a0c23fca1"',
        "debug": "exactly = false",
    }
    _, report = explain(tmp_path, MILAN, constraints, "snp", *CHAIN, *AT)
    assert (report["accepted"], report["mismatches"]) == (True, [])


@needs_published
def test_evidence_of_another_tee(tmp_path):
    constraints = {"pcr0": f'exactly = "{"00" * 48}"', "debug": "exactly = false"}
    _, report = explain(tmp_path, MILAN, constraints, "nitro", *CHAIN, *AT)
    assert [each["field"] for each in report["mismatches"]] == ["tee"]
    assert report["proposals"] == []


@needs_published
def test_evidence_that_is_not_genuine(tmp_path):
    constraints = {"measurement": f'exactly = "{"00" * 48}"', "debug": "exactly = false"}
    _, report = explain(tmp_path, MILAN, constraints, "snp", *AT)
    assert report["error"]["cause"] == "can't decide now"
    assert "No change of a policy helps" in report["note"]


def test_evidence_needs_a_policy(tmp_path):
    (tmp_path / "evidence").write_bytes(Signer(b"x").simulated_evidence(bytes(64)))
    done = run_program(casemate_command("explain", str(tmp_path / "evidence")))
    assert done.status == 2
    assert "--policy" in done.stderr


def test_the_contract_that_evidence_binds_is_explained_too(tmp_path):
    root = Signer(b"explained")
    contract, other = sha384(b"contract"), sha384(b"other")
    buffer = encode_claims(Claims(pubkey_hash=sha256(b"key"), launch=contract))
    evidence, claims = tmp_path / "evidence", tmp_path / "claims"
    evidence.write_bytes(root.simulated_evidence(bytes(report_data_for(buffer))))
    claims.write_bytes(buffer)
    constraints = {
        "root": f'exactly = "{root.spki.hex()}"', "measurement": f'exactly = "{"01" * 48}"',
        "debug": "exactly = false", "launch": f'exactly = "{other}"',
    }  # fmt: skip
    _, report = explain(tmp_path, evidence, constraints, "simulated", "--claims", str(claims))
    (found,) = report["mismatches"]
    assert (found["field"], found["got"]) == ("launch", str(contract))
    assert "launch contract" in found["meaning"]
    assert f'"{contract}"' in report["proposals"][0]["toml"]
