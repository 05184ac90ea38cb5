"""``casemate inspect`` as a program: it shows, and says loudly that it verified nothing."""

import json

from tests.support.simulation import Signer

from casemate.project.programs import casemate_command, run_program
from casemate_testkit.tokens import TokenService


def run(path, *options):
    return run_program(casemate_command("inspect", str(path), *options))


def test_it_says_that_nothing_is_verified(tmp_path):
    (tmp_path / "evidence").write_bytes(Signer(b"x").simulated_evidence(b"r" * 64))
    done = run(tmp_path / "evidence")
    assert done.status == 0
    assert "simulated, not verified" in done.stdout.splitlines()[0]
    assert done.stderr.count("NOTHING HERE IS VERIFIED") == 2
    report = json.loads(run(tmp_path / "evidence", "--json").stdout)
    assert report["verified"] is False
    assert "NOTHING" in report["notice"]


def test_a_strangers_text_does_not_move_the_cursor(tmp_path):
    token = TokenService().token({"x-ms-attestation-type": "a\x1b[2J\r\nverdict: genuine"})
    (tmp_path / "token").write_bytes(token)
    done = run(tmp_path / "token")
    assert "\x1b" not in done.stdout
    assert not any(line.startswith("verdict") for line in done.stdout.splitlines())


def test_what_is_nothing_is_malformed(tmp_path):
    (tmp_path / "x").write_bytes(b"nothing")
    done = run(tmp_path / "x")
    assert done.status == 3
    assert "Traceback" not in done.stderr
