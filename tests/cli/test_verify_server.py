"""``verify --server``, and ``predict`` and ``bench`` with ``--policy``: what users see of it."""

import json

import pytest
from click.testing import CliRunner
from cryptography import x509
from tests.client.test_predict import Peer, answer
from tests.support.attested import policy_document
from tests.support.attested_servers import CONTRACT, OTHER_CONTRACT, minted
from tests.support.demo_data import demo_file

from casemate.cli import predict, verify
from casemate.errors import UsageError
from casemate.project.programs import casemate_command, run_program

IDENTITY = minted()


@pytest.fixture
def peer():
    made = Peer(IDENTITY)
    made.reply = answer(values=[0.0] * 281 + [1.0] + [0.0] * 718, shape=(1, 1000))
    made.reply = made.reply.SerializeToString()
    yield made
    made.server.stop(None).wait()


@pytest.fixture
def policies(tmp_path):
    """The policy of what the server is, and of something else."""
    for name, contract in (("policy", CONTRACT), ("other", OTHER_CONTRACT)):
        (tmp_path / f"{name}.toml").write_text(policy_document(contract).render())
    return tmp_path


def casemate(*words, status=0):
    done = run_program(casemate_command(*map(str, words)), timeout=60)
    assert done.status == status, done.stderr
    return done


def test_a_server_is_verified_and_its_certificate_saved(peer, policies):
    saved = policies / "server.crt"
    words = ("verify", "--server", f"localhost:{peer.port}", "--policy", policies / "policy.toml")
    done = casemate(*words, "--save", saved, "--json")
    assert saved.read_bytes() == IDENTITY.certificate
    said = json.loads(done.stdout)
    assert (said["tee"], said["genuine"], said["acceptable"]) == ("ratls", True, True)
    assert said["claims"]["launch"] == str(CONTRACT.digest())
    names = [check["name"] for check in said["checks"]]
    assert names == [
        "ratls.certificate", "ratls.key", "simulated.signature", "ratls.binding",
        "ratls.signature", "ratls.validity",
    ]  # fmt: skip
    assert "no longer" not in done.stderr
    assert peer.seen == []


def test_a_server_that_is_something_else_is_said_to_be_and_nothing_is_saved(peer, policies):
    saved = policies / "server.crt"
    words = ("verify", "--server", f"localhost:{peer.port}", "--policy", policies / "other.toml")
    done = casemate(*words, "--save", saved, status=5)
    assert not saved.exists()
    for shown in (CONTRACT.digest(), OTHER_CONTRACT.digest()):
        assert str(shown)[:32] in done.stderr
    assert "NOT ACCEPTABLE" in done.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("--save", "s.crt", "evidence.bin"),
        ("--server", "localhost:1", "evidence.bin"),
        ("--server", "localhost:1", "--save", "s.crt"),
        (),
    ],
)
def test_options_that_say_nothing_together(words):
    result = CliRunner().invoke(verify.command, words)
    assert (result.exit_code, "Usage:" in result.output) == (2, True)


def test_a_prediction_under_a_policy(peer, policies):
    words = ("--server", f"localhost:{peer.port}", "--image", demo_file("cat.jpg"))
    done = casemate("predict", *words, "--policy", policies / "policy.toml", "--max-age", "1")
    assert done.stdout.splitlines()[0] == "1.0000  281 tabby"
    assert f"launch contract {str(CONTRACT.digest())[:16]}" in done.stderr
    assert len(peer.seen) == 1
    done = casemate("predict", *words, "--policy", policies / "other.toml", status=5)
    assert "launch" in done.stderr
    assert len(peer.seen) == 1, "nothing was sent to the other"


def test_a_load_under_a_policy_verifies_once_and_pins(peer, policies):
    words = ("--server", f"localhost:{peer.port}", "--image", demo_file("cat.jpg"))
    more = ("--cnum", "2", "--loop", "2", "--json", "--policy", policies / "policy.toml")
    done = casemate("bench", *words, *more)
    assert json.loads(done.stdout)["requests"] == 4
    assert done.stderr.count("verified") == 1


@pytest.mark.parametrize("trust", [(), ("--plaintext", "--policy"), ("--crt", "--policy")])
def test_a_server_is_trusted_for_one_reason(peer, policies, trust):
    files = {"--policy": policies / "policy.toml", "--crt": policies / "policy.toml"}
    words = [str(part) for name in trust for part in (name, files.get(name)) if part]
    address = ("--server", f"localhost:{peer.port}", "--image", str(demo_file("cat.jpg")))
    result = CliRunner().invoke(predict.command, [*address, *words])
    assert isinstance(result.exception, UsageError)
    assert result.exception.code == "client.trust"
    assert peer.seen == []


def test_what_is_saved_is_one_certificate_that_names_the_servers_names(peer, policies):
    saved = policies / "server.crt"
    words = ("verify", "--server", f"127.0.0.1:{peer.port}", "--policy", policies / "policy.toml")
    casemate(*words, "--save", saved)
    (certificate,) = x509.load_pem_x509_certificates(saved.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == list(CONTRACT.certificate.names)
