"""Servers that are verified by programs: what they get, and what goes wrong without an attacker."""

import datetime
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from tests.client.test_predict import Peer
from tests.support.attested import policy_document, wait_until
from tests.support.attested_servers import CONTRACT, NAMES, listening, minted

from casemate.client import AttestedServer
from casemate.client.attested import verify_server
from casemate.client.fetch import fetch_certificate
from casemate.endorsements.collection import Endorsements
from casemate.errors import InternalError, UnavailableError, UsageError
from casemate.evidence import Evidence, Tee
from casemate.policy import AnyOf, Policy, PolicyDocument, Unchecked
from casemate.policy.constraint import default_constraint
from casemate.policy.document import Alternative
from casemate.policy.fields import FIELDS
from casemate.types import ReportData
from casemate.verify import Known
from casemate.verify.chain import fingerprint
from casemate.verify.roots import VendorRoots
from casemate_testkit.pki import DAY
from casemate_testkit.snp import SnpPlatform

POLICY = policy_document(CONTRACT)
GENUINE = minted()
TODAY = datetime.datetime.now(datetime.UTC)


@pytest.fixture
def peer():
    made = Peer(GENUINE)
    yield made
    made.server.stop(None).wait()


def test_a_program_of_ones_own_gets_a_channel_to_that_server_alone(peer):
    server = verify_server(f"localhost:{peer.port}", POLICY)
    assert server.pem == GENUINE.certificate
    assert server.name == NAMES[0]
    with server.channel() as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        assert call(b"x", timeout=5) == peer.reply
    assert peer.seen == [b"x"]


def test_a_stock_client_pins_the_certificate_that_was_verified(peer):
    """As tensorflow-serving-api, tritonclient and ovmsclient do it: by grpcio, with a file."""
    server = verify_server(f"localhost:{peer.port}", POLICY)
    script = (
        "import sys, grpc\n"
        "credentials = grpc.ssl_channel_credentials(open(sys.argv[2], 'rb').read())\n"
        "options = [('grpc.ssl_target_name_override', sys.argv[3])]\n"
        "with grpc.secure_channel(sys.argv[1], credentials, options) as channel:\n"
        "    call = channel.unary_unary('/tensorflow.serving.PredictionService/Predict')\n"
        "    print(len(call(b'x', timeout=5)))\n"
    )
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(server.pem)
        file.flush()
        command = [sys.executable, "-I", "-c", script, server.address, file.name, NAMES[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(peer.reply)


def test_a_client_of_http_takes_its_context(tmp_path):
    other = minted()
    with listening(GENUINE, tmp_path) as right:
        server = verify_server(right.address, POLICY)
        client = http.client.HTTPSConnection("localhost", right.port, context=server.ssl_context())
        client.connect()
        client.close()
    folder = tmp_path / "other"
    folder.mkdir()
    with listening(other, folder) as wrong:
        client = http.client.HTTPSConnection("localhost", wrong.port, context=server.ssl_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            client.connect()
    assert wrong.received == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl (tools/install-test-programs)")
def test_curl_pins_it_too(tmp_path):
    with listening(GENUINE, tmp_path) as right:
        server = verify_server(right.address, POLICY)
        pinned = tmp_path / "server.crt"
        pinned.write_bytes(server.pem)
        command = ["curl", "--silent", "--show-error", "--http1.1", "--max-time", "20"]
        to = ["--connect-to", f"{NAMES[0]}:443:127.0.0.1:{right.port}", f"https://{NAMES[0]}/"]
        with subprocess.Popen([*command, "--cacert", str(pinned), *to]) as asking:
            wait_until(lambda: any(right.received))
            asking.kill()  # there is no answer
        blind = subprocess.run([*command, *to], check=False, capture_output=True, text=True)
    assert b"".join(right.received).startswith(b"GET / HTTP/1.1")
    assert b"".join(right.received).count(b"GET") == 1
    assert blind.returncode == 60, blind.stderr


def test_nobody_else_makes_an_attested_server():
    with pytest.raises(InternalError):
        AttestedServer(address="localhost:1", certificate=b"", appraised=())


MACHINE = SnpPlatform(until=TODAY + 30 * DAY)
SENT = tuple(each.public_bytes(Encoding.DER) for each in MACHINE.certificates)


@dataclass(frozen=True)
class Guest:
    """A guest on an SEV-SNP machine of ours, which sends its certificates along."""

    def attest(self, report_data: ReportData) -> Evidence:
        report = MACHINE.report(x050=bytes(report_data), x090=b"\x22" * 48)
        return Evidence(tee=Tee.SNP, data=report, endorsements=SENT)


def hardware_policy(tee, **constraints):
    fields = {
        field.name: default_constraint(field) or Unchecked("another test's matter")
        for field in FIELDS[tee]
    }
    fields |= {"debug": AnyOf((False,)), "launch": AnyOf((bytes(CONTRACT.digest()),))}
    alternative = Alternative(tee=tee, constraints={**fields, **constraints})
    policies = {"server": Policy(name="server", alternatives=(alternative,))}
    return PolicyDocument(policies=policies, secrets={})


def test_hardwares_evidence_counts_by_what_the_client_knows(tmp_path):
    identity = minted(Guest())
    policy = hardware_policy(Tee.SNP, measurement=AnyOf((b"\x22" * 48,)))
    vendors = VendorRoots(amd={"Milan": fingerprint(MACHINE.ark.certificate)})
    lists = tuple(MACHINE.revocation_lists(start=TODAY - DAY, end=TODAY + DAY))

    def know(evidence):
        # Not TODAY: the rest of the suite came between, and the certificate was made after it.
        now = datetime.datetime.now(datetime.UTC)
        return Known(at=now, endorsements=Endorsements(revocation_lists=lists))

    with listening(identity, tmp_path) as it:
        server = verify_server(it.address, policy, knowledge=know, vendors=vendors)
        assert server.appraised[0].report.tee is Tee.SNP
        assert server.launch == CONTRACT.digest()


def test_a_server_that_can_not_be_reached_or_says_nothing():
    with pytest.raises(UsageError):
        fetch_certificate("localhost", timeout=1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(UnavailableError) as caught:
            fetch_certificate(f"127.0.0.1:{port}", timeout=0.2)
        assert caught.value.code == "client.timeout"
    with pytest.raises(UnavailableError) as caught:
        fetch_certificate(f"127.0.0.1:{port}", timeout=1)
    assert caught.value.code == "client.unreachable"


def test_without_the_library_it_can_not_be_told(peer, monkeypatch):
    monkeypatch.setitem(sys.modules, "asn1crypto", None)
    with pytest.raises(UnavailableError) as caught:
        verify_server(f"localhost:{peer.port}", POLICY)
    assert caught.value.code == "client.library"


def test_grpc_is_told_the_options_that_the_channel_needs(peer):
    server = verify_server(f"127.0.0.1:{peer.port}", POLICY)
    with grpc.secure_channel(server.address, server.credentials()) as channel:
        call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        with pytest.raises(grpc.RpcError):  # the address isn't a name of the certificate
            call(b"x", timeout=5)
