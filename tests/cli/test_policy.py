"""``casemate policy new, check, diff`` as programs."""

import json

import pytest
from tests.support.published import FOLDER, needs_published

from casemate.project.programs import casemate_command, run_program

TDX = (
    "--from", FOLDER / "tdx" / "quote_v4.bin",
    "--endorsements", FOLDER / "tdx" / "quote_v4.collateral.json",
    "--at", "2025-06-20T00:00:00Z",
)  # fmt: skip
OCCLUM = {
    "verify_mr_enclave": "on", "verify_mr_signer": "on", "verify_isv_prod_id": "off",
    "verify_isv_svn": "on", "verify_config_svn": "off", "verify_enclave_debuggable": "on",
    "sgx_mrs": [
        {"mr_enclave": "11" * 32, "mr_signer": "22" * 32, "isv_prod_id": 0, "isv_svn": 1,
         "config_svn": 0, "debuggable": False}
    ],
}  # fmt: skip


def policy(*arguments, code=0):
    done = run_program(casemate_command("policy", *map(str, arguments)))
    assert done.status == code, done.stderr
    return done


@pytest.fixture
def occlum(tmp_path):
    (tmp_path / "ra_config.json").write_text(json.dumps(OCCLUM))
    target = tmp_path / "occlum.toml"
    done = policy(
        "new", target, "--from-occlum", tmp_path / "ra_config.json", "--secret", "a", "--json"
    )
    assert json.loads(done.stdout)["secrets"] == ["a"]
    return target


def test_occlums_configuration_becomes_a_policy_that_says_what_each_switch_became(occlum):
    text = occlum.read_text()
    assert "# verify_isv_prod_id is off: isv_prod_id isn't looked at." in text
    assert 'isv_prod_id = { unchecked = "verify_isv_prod_id is off in ra_config.json" }' in text
    (shown,) = json.loads(policy("show", occlum, "--json").stdout)["policies"]["occlum"]
    assert (shown["isv_svn"], shown["debug"]) == ("1", "false")


def test_a_check_lists_what_it_finds_and_its_code_says_how_bad_it_is(occlum):
    report = json.loads(policy("check", occlum, "--json").stdout)
    assert report["accepted"] is True
    assert {each["weight"] for each in report["findings"]} == {"warning", "note"}
    policy("check", occlum, "--strict", code=5)
    occlum.write_text(
        occlum.read_text().replace("debug = { exactly = false", "debug = {exactly=true")
    )
    done = policy("check", occlum, code=5)
    assert "error: policies.occlum[0]: debug" in done.stdout


def test_a_diff_says_which_side_is_stricter(occlum, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(
        occlum.read_text().replace("isv_svn = { exactly = 1 }", "isv_svn = {at_least = 1}")
    )
    assert json.loads(policy("diff", occlum, occlum, "--json").stdout) == {
        "same": True, "differences": [],
    }  # fmt: skip
    (found,) = json.loads(policy("diff", occlum, other, "--json").stdout)["differences"]
    assert (found["field"], found["verdict"]) == ("isv_svn", "the first is stricter")
    assert "isv_svn: the second is stricter" in policy("diff", other, occlum).stdout


def test_there_is_one_source(tmp_path):
    policy("new", tmp_path / "p.toml", code=2)
    policy("new", tmp_path / "p.toml", "--tee", "simulated", "--from-occlum", "x", code=2)


@needs_published
def test_a_strict_policy_is_made_from_evidence_and_accepts_it(tmp_path):
    target = tmp_path / "p.toml"
    report = json.loads(policy("new", target, *TDX, "--secret", "key", "--json").stdout)
    assert (report["tee"], report["mismatches"], report["secrets"]) == ("tdx", [], ["key"])
    done = run_program(
        casemate_command(
            "verify", str(TDX[1]), *map(str, TDX[2:]), "--policy", str(target), "--json"
        )
    )
    assert json.loads(done.stdout)["acceptable"] is True
    assert "differs from machine to machine" in target.read_text()
    pinned = tmp_path / "pinned.toml"
    policy("new", pinned, *TDX, "--pin-machine", "--secret", "key")
    found = json.loads(policy("diff", target, pinned, "--json").stdout)["differences"]
    assert {each["field"] for each in found} == {
        "fmspc", "sgx_type", "ppid", "platform_instance_id",
    }  # fmt: skip
    assert {each["verdict"] for each in found} == {"the second is stricter"}


@needs_published
def test_what_the_evidence_lacks_is_told(tmp_path):
    report = json.loads(
        policy(
            "new", tmp_path / "p.toml", "--from", FOLDER / "sgx" / "quote_v3.bin",
            "--endorsements", FOLDER / "sgx" / "quote_v3.collateral.json",
            "--at", "2025-06-20T00:00:00Z", "--json",
        ).stdout
    )  # fmt: skip
    assert [each["field"] for each in report["mismatches"]] == ["tcb_status", "advisories"]


@needs_published
def test_none_is_made_from_evidence_that_does_not_hold(tmp_path):
    late = (*TDX[:-1], "2026-06-20T00:00:00Z")
    policy("new", tmp_path / "p.toml", *late, code=6)
    assert not (tmp_path / "p.toml").exists()
