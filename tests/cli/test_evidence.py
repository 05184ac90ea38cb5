"""``casemate evidence``: what is found, what is bound, and what is handed over."""

import base64
import hashlib
import json

import pytest
from click.testing import CliRunner
from tests.support.kernels import mounted, needs_fuse, nothing_at_its_place
from tests.support.tpms import needs_tpm

from casemate.cli.evidence import command
from casemate.cli.verify import command as verify
from casemate.errors import CasemateError, MalformedError, UsageError
from casemate.project.keys import load_public_key, make_identity_key
from casemate.protocol.binding import Claims, encode_claims, parse_claims
from casemate.types import Nonce, sha256
from casemate_testkit.kernel_tsm import TsmFolder
from casemate_testkit.software_tpm import SoftwareTpm

NONCE = bytes(range(32))


def run(*arguments):
    result = CliRunner().invoke(command, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_looking_says_a_line_for_every_tee_and_attests_nothing(tmp_path):
    result = run("--list", "--json", "--development-root", tmp_path / "root.pem")
    tees = {each["name"]: each for each in json.loads(result.stdout)["tees"]}
    assert list(tees) == [
        "sgx-gramine", "sgx-occlum", "tdx", "snp", "cca", "nitro", "azure", "tpm", "nvidia",
    ]  # fmt: skip
    assert all(each["why"] for each in tees.values())
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == list(tees)
    assert not (tmp_path / "root.pem").exists()


def test_the_challenge_stands_in_the_claims_and_the_evidence_binds_them(tmp_path):
    result = run(
        "--tee", "simulated", "--development-root", tmp_path / "root.pem",
        "--nonce", NONCE.hex(), "--output", tmp_path / "out.bin", "--json",
    )  # fmt: skip
    report = json.loads(result.stdout)
    claims = (tmp_path / "out.bin.claims").read_bytes()
    assert claims.hex() == report["claims"]
    assert parse_claims(claims).nonce == NONCE
    assert report["report_data"] == hashlib.sha256(claims).hexdigest() + "00" * 32
    data = (tmp_path / "out.bin").read_bytes()
    assert base64.b64decode(report["evidence"]) == data
    assert (report["tee"], report["kind"]) == ("simulated", "simulated")
    assert "protects nothing" in result.stderr
    with pytest.raises(UsageError) as caught:  # never over what is there
        run("--tee", "simulated", "--development-root", tmp_path / "root.pem", "--output",
            tmp_path / "out.bin")  # fmt: skip
    assert caught.value.code == "file.exists"


def test_a_key_is_vouched_for_and_without_one_a_new_one_each_time(tmp_path):
    root = ("--tee", "simulated", "--development-root", tmp_path / "root.pem", "--json")
    (tmp_path / "key.pub").write_bytes(make_identity_key()[1])
    hashes = []
    for options in ((), (), ("--public-key", tmp_path / "key.pub")):
        claims = parse_claims(bytes.fromhex(json.loads(run(*root, *options).stdout)["claims"]))
        hashes.append(claims.pubkey_hash)
    assert len(set(hashes)) == 3
    assert hashes[2] == hashlib.sha256(load_public_key(tmp_path / "key.pub")).digest()
    (tmp_path / "no.pub").write_text("no key")
    with pytest.raises(UsageError) as caught:
        run(*root, "--public-key", tmp_path / "no.pub")
    assert caught.value.code == "evidence.public-key"


@pytest.mark.parametrize("nonce", ["00", "00" * 31, "zz" * 32])
def test_a_challenge_is_32_bytes_in_hex(tmp_path, nonce):
    with pytest.raises(MalformedError):
        run("--tee", "simulated", "--development-root", tmp_path / "root.pem", "--nonce", nonce)


@needs_fuse
def test_what_is_found_is_attested(tmp_path, monkeypatch):
    kernel = TsmFolder("arm_cca_guest", lambda inblob, _: b"token for " + inblob)
    with mounted(kernel, tmp_path / "report") as reports:
        monkeypatch.setattr("casemate.tee.tsm.REPORTS", reports)
        result = run()
    assert "cca:         found, this is one" in result.stderr
    assert "the kernel's provider of reports is arm_cca_guest" in result.stderr
    assert base64.b64decode(result.stdout).startswith(b"token for ")


def test_on_a_machine_without_a_tee_it_says_so_and_fails(monkeypatch, tmp_path):
    nothing_at_its_place(monkeypatch, tmp_path)
    with pytest.raises(CasemateError) as caught:
        run()
    assert caught.value.code == "tee.none"
    assert caught.value.exit_code == 2


@needs_tpm
def test_who_asked_sees_the_challenge_answered(tmp_path):
    with SoftwareTpm(tmp_path) as tpm:
        result = run("--tee", "tpm", "--tee-device", tpm.place, "--nonce", NONCE.hex(), "--output",
                     tmp_path / "tpm.json", "--json")  # fmt: skip
    assert "keeps nobody out" in result.stderr
    other = tmp_path / "other.claims"
    other.write_bytes(encode_claims(Claims(pubkey_hash=sha256(b"a key"), nonce=Nonce(NONCE))))

    def verified(claims, nonce):
        checked = CliRunner().invoke(
            verify,
            [str(tmp_path / "tpm.json"), "--claims", str(claims), "--nonce", nonce.hex(), "--json"],
            standalone_mode=False,
        )
        return checked.return_value, json.loads(checked.stdout).get("error", {}) or {}

    mine = tmp_path / "tpm.json.claims"
    assert verified(mine, NONCE) == (0, {})
    for claims, nonce, code in (
        (mine, bytes(32), "evidence.nonce"),
        (other, NONCE, "evidence.claims"),
    ):
        status, error = verified(claims, nonce)
        assert (status, error["code"]) == (4, code)
