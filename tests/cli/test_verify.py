"""``casemate verify`` as a program, on published evidence."""

import json

import pytest
from tests.support.published import FOLDER, cases, needs_published

from casemate.project.programs import casemate_command, run_program
from casemate_testkit.tokens import ISSUER, TokenService

pytestmark = needs_published
MILAN = FOLDER / "snp" / "milan_v3_report.bin"
CHAIN = (
    *("--endorsements", str(FOLDER / "snp" / "chains" / "ask_ark_milan.pem")),
    *("--endorsements", str(FOLDER / "snp" / "milan_v3_vcek.pem")),
    *("--at", "2026-06-01T00:00:00Z"),
)
CODES = {"valid": {0}, "invalid": {4, 6}, "parse-only": {6}, "binding-only": {6},
         "tpm-and-binding-only": {6}}  # fmt: skip


def verify(*arguments, code=None):
    done = run_program(casemate_command("verify", *map(str, arguments), "--json"))
    assert code is None or done.status == code, done.stdout + done.stderr
    return done, json.loads(done.stdout)


@pytest.mark.parametrize("case", cases(), ids=[case["name"] for case in cases()])
def test_every_published_case(case):
    arguments = [FOLDER / case["evidence"]]
    for name in reversed(case.get("endorsements", [])):  # any order will do
        arguments += ["--endorsements", FOLDER / name]
    if case.get("at"):
        arguments += ["--at", case["at"]]
    done, report = verify(*arguments)
    assert done.status in CODES[case["cryptography"]], report
    assert report["tee"] == case["tee"]
    assert report["genuine"] is (case["cryptography"] == "valid")
    assert report["acceptable"] is None
    assert (report["error"] is None) is report["genuine"]
    for name, value in case.get("claims", {}).items() if report["genuine"] else ():
        got = report["claims"][name.removesuffix("_prefix")]
        assert got.startswith(value) if name.endswith("_prefix") else got == value


def test_a_person_sees_each_check_and_the_verdict():
    done = run_program(casemate_command("verify", str(MILAN), *CHAIN))
    assert done.status == 0
    assert "held   snp.signature" in done.stdout
    assert "verdict:                  genuine" in done.stdout


def test_evidence_for_another_occasion_is_not_genuine():
    _, report = verify(MILAN, *CHAIN, "--report-data", "00ff", code=4)
    assert report["error"]["code"] == "evidence.report-data"
    assert report["claims"] == {}


def test_a_policy_says_yes_or_names_every_mismatch(tmp_path):
    _, report = verify(MILAN, *CHAIN, code=0)
    policy = tmp_path / "policy.toml"
    policy.write_text(_policy(report["claims"], vmpl=0))
    _, accepted = verify(MILAN, *CHAIN, "--policy", policy, code=0)
    assert accepted["acceptable"] is True
    policy.write_text(_policy({**report["claims"], "measurement": "00" * 48}, vmpl=1))
    _, refused = verify(MILAN, *CHAIN, "--policy", policy, code=5)
    assert (refused["genuine"], refused["acceptable"]) == (True, False)
    assert [m["field"] for m in refused["error"]["mismatches"]] == ["measurement", "vmpl"]


def test_what_is_no_evidence_is_malformed(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    done, report = verify(tmp_path / "x", code=3)
    assert report["tee"] is None
    assert "Traceback" not in done.stderr


def test_the_kind_can_be_insisted_on():
    _, report = verify(MILAN, *CHAIN, "--tee", "nitro", code=3)
    assert report["tee"] == "nitro"


def test_an_event_log_is_held_against_registers_alone():
    log = FOLDER / "tdx" / "eventlog_ccel.bin"
    done = run_program(
        casemate_command("verify", str(MILAN), *CHAIN, "--eventlog", str(log), "--json")
    )
    assert done.status == 2
    assert "no registers" in done.stderr


def _policy(claims, *, vmpl):
    lines = ["version = 1", '[[policies."it".alternatives]]', 'tee = "snp"']
    for name in ("measurement", "host_data", "family_id", "image_id", "id_key_digest"):
        lines.append(f'{name} = {{ exactly = "{claims[name]}" }}')
    for name in ("debug", "migration_agent", "smt_allowed", "single_socket"):
        lines.append(f"{name} = {{ exactly = {str(claims[name]).lower()} }}")
    lines += [
        f"vmpl = {{ exactly = {vmpl} }}",
        "guest_svn = { at_least = 1 }",
        'author_key_digest = { unchecked = "the identity key is pinned" }',
        'product = { any_of = ["Milan", "Genoa"] }',
        'signer = { exactly = "vcek" }',
        'csp_id = { unchecked = "a chip signs" }',
        f'chip_id = {{ exactly = "{claims["chip_id"]}" }}',
        "reported_tcb = { at_least = { bootloader = 4, snp = 24, microcode = 219 } }",
        "committed_tcb = { at_least = { snp = 24 } }",
        'launch_tcb = { unchecked = "the reported one counts" }',
        'platform_info = { unchecked = "not this time" }',
        'revocation = { unchecked = "no list at hand" }',
        'abi = { at_least = "0.31" }',
        "guest_policy = { bits = { ones = 0x20000, zeros = 0x80000 } }",
        'firmware = { at_least = "1.55" }',
        "launch_mit_vector = { absent = true }",
        *(
            f'{name} = {{ unchecked = "not this time" }}'
            for name in (
                "version",
                "current_tcb",
                "committed_firmware",
                "current_mit_vector",
                "revocation_age_days",
            )
        ),
        'launch = { unchecked = "no launcher" }',
    ]
    return "\n".join(lines) + "\n"


def test_several_pieces_of_evidence_must_all_hold():
    turin = FOLDER / "snp" / "turin_v5_report.bin"
    more = (
        *("--endorsements", FOLDER / "snp" / "turin_v5_vcek.pem"),
        *("--endorsements", FOLDER / "snp" / "chains" / "ask_ark_turin_vcek.pem"),
    )
    _, both = verify(MILAN, turin, *CHAIN, *more, code=0)
    assert (both["tee"], both["genuine"], both["acceptable"]) == ("snp", True, None)
    assert [each["claims"]["product"] for each in both["evidence"]] == ["Milan", "Turin"]
    _, one = verify(MILAN, turin, *CHAIN, code=4)
    assert one["genuine"] is False
    assert [each["genuine"] for each in one["evidence"]] == [True, False]
    assert one["error"]["code"] == one["evidence"][1]["error"]["code"]


def test_what_is_reported_has_these_keys():
    _, report = verify(MILAN, *CHAIN, code=0)
    assert list(report) == ["tee", "genuine", "acceptable", "claims", "checks", "error"]
    assert all(set(check) == {"name", "held", "purpose"} for check in report["checks"])


def test_a_result_is_issued_and_relied_upon(tmp_path):
    key, token, policy = tmp_path / "verifier.key", tmp_path / "token.jwt", tmp_path / "p.toml"
    run_program(casemate_command("key", "new", "--for", "identity", str(key)))
    _, report = verify(MILAN, *CHAIN, code=0)
    policy.write_text(_policy(report["claims"], vmpl=0))
    issue = ("--policy", policy, "--ear", token, "--ear-key", key)
    rely = (token, "--verifier-key", f"{key}.pub", "--at", "2026-06-01T00:01:00Z")
    verify(MILAN, *CHAIN, *issue, "--nonce", "aa" * 32, code=4)  # made for another occasion
    _, result = verify(*rely, code=5)
    assert result["error"]["code"] == "ear.status"
    verify(MILAN, *CHAIN, *issue, "--ear-nonce", "aa" * 32, code=0)
    _, result = verify(*rely, "--nonce", "aa" * 32, code=0)
    assert (result["tee"], result["genuine"]) == ("ear", True)
    assert result["claims"]["attester.measurement"] == report["claims"]["measurement"]
    assert verify(*rely, "--nonce", "bb" * 32, code=4)[1]["error"]["code"] == "evidence.nonce"
    assert verify(*rely, "--for-key", f"{key}.pub", code=4)[1]["error"]["code"] == "evidence.key"
    verify(*rely[:-1], "2026-06-01T00:05:00Z", code=4)
    policy.write_text(policy.read_text().replace('exactly = "vcek"', 'exactly = "vlek"'))
    verify(MILAN, *CHAIN, *issue, code=5)
    _, result = verify(*rely, code=5)
    assert result["claims"]["attester"] == "snp"


def test_no_result_without_policy_or_decision(tmp_path):
    key, token = tmp_path / "verifier.key", tmp_path / "token.jwt"
    run_program(casemate_command("key", "new", "--for", "identity", str(key)))
    done = run_program(
        casemate_command("verify", str(MILAN), *CHAIN, "--ear", str(token), "--ear-key", str(key))
    )
    assert done.status == 2
    assert "--policy" in done.stderr
    policy = tmp_path / "policy.toml"
    _, report = verify(MILAN, *CHAIN, code=0)
    policy.write_text(_policy(report["claims"], vmpl=0))
    verify(MILAN, "--policy", policy, "--ear", token, "--ear-key", key, code=6)
    assert not token.exists()


def test_a_token_of_azure_attestation(tmp_path):
    service = TokenService()
    (tmp_path / "keys.json").write_bytes(service.key_set())
    (tmp_path / "token.jwt").write_bytes(service.token() + b"\n")
    at = ("--at", "2026-06-01T00:01:00Z")
    keys = ("--endorsements", tmp_path / "keys.json")
    _, report = verify(tmp_path / "token.jwt", *keys, *at, "--tee", "maa", code=0)
    assert report["claims"]["issuer"] == ISSUER
    _, report = verify(tmp_path / "token.jwt", *at, code=6)
    assert (report["tee"], report["error"]["code"]) == ("maa", "maa.no-keys")


def test_what_ends_soon_is_warned_of():
    quote = FOLDER / "sgx" / "quote_v3.bin"
    collateral = ("--endorsements", FOLDER / "sgx" / "quote_v3.collateral.json")
    at = ("--at", "2025-06-20T00:00:00Z")
    done, report = verify(quote, *collateral, *at, code=0)
    assert [each["kind"] for each in report["forecast"]] == ["refresh"]
    assert "WARNING" in done.stderr
    done, report = verify(quote, *collateral, *at, "--forecast-days", "0", code=0)
    assert "forecast" not in report
    document = FOLDER / "nitro" / "document.b64"
    _, report = verify(document, "--at", "2023-09-18T15:10:00Z", code=0)
    (found,) = report["forecast"]
    assert (found["kind"], found["code"]) == ("ends", "nitro.expired")
    assert found["at"].startswith("2023-09-18T1")
