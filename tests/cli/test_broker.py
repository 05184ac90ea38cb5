"""``casemate broker`` as a program: starts, says so, serves, and stops when it is told."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest
from tests.support.attested import SECRETS, fetched, launcher_tee, policy_document, refusal_of
from tests.support.broker_program import broker_folder
from tests.support.launches import gone_in_time

from casemate.errors import NotGenuineError
from casemate.policy import AnyOf, Unchecked
from casemate.project.programs import run_program
from casemate.protocol.contract import BrokerIdentity
from casemate.tee.simulated import DevelopmentRoot, measure_broker
from casemate.types import sha256


@pytest.fixture
def here(tmp_path):
    return broker_folder(tmp_path)


def test_a_broker_says_that_it_is_ready_and_who_it_is(here):
    with here.running():
        ready = here.ready()
        assert fetched(here.contract) == SECRETS
    host, port = here.contract.broker.endpoint
    assert (ready["event"], ready["host"], ready["port"]) == ("ready", host, port)
    assert ready["proves"] == f"identity key {sha256(here.contract.broker.key)}"
    assert "stopped" in here.log.read_text()


def test_the_trail_has_the_whole_story_and_is_appended_to(here):
    for times in (1, 2):
        with here.running():
            assert fetched(here.contract) == SECRETS
            here.wait_for_lines("closed", times)
    lines = here.lines("opened", "released", "closed", "refused")
    assert [line["event"] for line in lines] == ["opened", "released", "closed"] * 2
    released = lines[1]
    assert sorted(released["secrets"]) == sorted(SECRETS)
    assert released["policies"] == ["launcher"]
    assert released["claims"]["launch"] == here.contract.digest().hex()
    assert len({line["correlation_id"] for line in lines[:3]}) == 1


def test_a_refusal_is_one_line_on_stderr_and_all_of_it_in_the_trail(here):
    with here.running():
        assert refusal_of(here.contract, launcher_tee(debug=True)) == "policy.mismatch"
    (refused,) = here.lines("refused")
    assert refused["error"]["mismatches"][0]["field"] == "debug"
    log = here.log.read_text()
    assert f"policy.mismatch ({refused['correlation_id']})" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_broker_ends_in_order_when_it_is_told(here, number):
    with here.running() as pid:
        os.kill(pid, number)
        assert gone_in_time([pid])
    assert "stopped" in here.log.read_text()
    assert "Traceback" not in here.log.read_text()


def test_the_trail_may_go_to_stderr(here):
    with here.running(audit=Path("-")):
        assert fetched(here.contract) == SECRETS
    events = [json.loads(line).get("event") for line in here.log.read_text().splitlines()
              if line.startswith("{")]  # fmt: skip
    assert events[:3] == ["ready", "opened", "released"]


WRONG = {
    "no such policy": (lambda folder: (folder / "policy.toml").unlink(), 2, "policy.toml"),
    "a policy that is no TOML": (
        lambda folder: (folder / "policy.toml").write_text("version ="), 3, "TOML",
    ),
    "a policy in another encoding": (
        lambda folder: (folder / "policy.toml").write_bytes(b"\xff\xfe"), 2, "UTF-8",
    ),
    "a policy that checks nothing": (
        lambda folder: (folder / "policy.toml").write_text("version = 1\n[policies]\n"),
        3, "at least one policy",
    ),
    "a secret that is missing": (
        lambda folder: (folder / "secrets" / "image_key").unlink(), 2, "image_key",
    ),
    "a secret that nobody may have": (
        lambda folder: (folder / "secrets" / "image_key").rename(folder / "secrets" / "more"),
        2, "image_key",
    ),
    "no identity key": (lambda folder: (folder / "broker.key").unlink(), 2, "casemate key new"),
    "another file as identity key": (
        lambda folder: (folder / "broker.key").write_bytes((folder / "broker.pub").read_bytes()),
        2, "Ed25519",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_broker_that_can_not_start_says_why(here, what):
    spoil, status, word = WRONG[what]
    spoil(here.folder)
    done = here.fails("--json")
    assert done.status == status, done.stderr
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    if done.stdout:
        assert json.loads(done.stdout)["error"]["code"]


def test_a_port_that_is_taken_is_named(here):
    with here.running():
        done = here.fails()
    assert done.status == 2
    assert here.contract.broker.address in done.stderr


@pytest.mark.parametrize("options", [("--tee", "simulated"), ()])
def test_a_broker_has_exactly_one_identity(here, options):
    done = run_program(here.command(*options, identity=bool(options)), timeout=20)
    assert done.status == 2
    assert "exactly one of --identity and --tee" in done.stderr


def test_a_broker_in_a_tee_proves_its_own_code(here):
    """A contract that pins the measured broker by policy is served, one that pins a key isn't."""
    root = DevelopmentRoot.load_or_create(here.folder / "root.pem")
    constraints = {
        "root": AnyOf((root.spki,)),
        "measurement": AnyOf((bytes(measure_broker()),)),
        "launch": Unchecked("a broker has none"),
    }
    address = here.contract.broker.address
    policy = policy_document(here.contract, **constraints).render()
    by_policy = dataclasses.replace(
        here.contract, broker=BrokerIdentity(address=address, policy=policy)
    )
    (here.folder / "policy.toml").write_text(policy_document(by_policy).render())
    tee = ("--tee", "simulated", "--development-root", str(here.folder / "root.pem"))
    with here.running(*tee, identity=False):
        assert here.ready()["proves"] == f"simulated TEE, measurement {measure_broker()}"
        assert fetched(by_policy) == SECRETS
        with pytest.raises(NotGenuineError):
            fetched(here.contract)


@pytest.mark.parametrize("address", ["localhost", ":1", "a:", "a:65536", "a:-1", "a:1_0", "a:٣"])
def test_an_address_of_another_form_is_refused(here, address):
    done = here.fails("--listen", address)
    assert done.status == 2
    assert "is not HOST:PORT" in done.stderr


@pytest.mark.parametrize("how", [("--fetch", "--kds", "http://127.0.0.1:1"), ("--offline",)])
def test_a_broker_that_asks_services_stops_when_it_is_told(here, tmp_path, how):
    with here.running(*how, "--collateral-cache", str(tmp_path / "kept")):
        here.ready()
        assert fetched(here.contract) == SECRETS  # simulated launchers need nobody's word
    assert "stopped" in here.log.read_text()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
