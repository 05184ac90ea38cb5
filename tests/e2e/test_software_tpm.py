"""The whole flow with a TPM: a launcher that attests by quotes, a policy that pins key and state.

The TPM is one in software, so who runs it has its keys; every command and check is the real one.
"""

import time
import urllib.request
from contextlib import contextmanager

import pytest
from tests.support.attested_servers import listening
from tests.support.launches import CANARY, busybox_root, launch_site, needs_busybox
from tests.support.tpms import needs_tpm
from tests.support.trees import directory, file, symlink

from casemate.client.attested import verify_server
from casemate.evidence import Tee
from casemate.policy import PolicyDocument
from casemate.project.programs import casemate_command, pick_port, run_program
from casemate.project.tls import TlsIdentity
from casemate.protocol.contract_certificate import CertificateForm, CertificatePlacement
from casemate.protocol.registers import TPM_PCR
from casemate.tee.tpm_commands import TpmCommands
from casemate.tee.tpm_link import open_tpm
from casemate.types import Secret
from casemate_testkit.software_tpm import SoftwareTpm

pytestmark = [needs_busybox, needs_tpm, pytest.mark.e2e]


def strict_policy(site, tpm, target) -> None:
    """The policy that evidence of this TPM gives, for the site's contract."""
    made = casemate_command(
        "evidence", "--tee", "tpm", "--tee-device", tpm.place, "--output", str(target)
    )
    assert run_program(made).status == 0
    policy = site.folder / "policy.toml"
    policy.unlink()
    derived = casemate_command(
        "policy", "new", "--from", str(target), str(site.contract_file), str(policy)
    )
    done = run_program(derived)
    assert done.status == 0, done.stderr


@contextmanager
def site_with_tpm(tmp_path, argv, **options):
    for name in ("site", "tpm", "other"):
        (tmp_path / name).mkdir()
    with (
        SoftwareTpm(tmp_path / "tpm") as tpm,
        launch_site(tmp_path / "site", argv, **options) as site,
    ):
        strict_policy(site, tpm, tmp_path / "tpm.json")
        site.restart_broker()
        site.tee = options_of(tpm)
        yield tpm, site


def options_of(tpm) -> tuple[str, ...]:
    return "--tee", "tpm", "--tee-device", tpm.place


def mismatches(site) -> set[str]:
    (refusal,) = site.refusals()
    return {each["field"] for each in refusal["mismatches"]}


SHOW = ["/bin/sh", "-c", "cat /etc/tls.key"]


def test_the_workload_gets_its_secrets_and_serves(tmp_path):
    port = pick_port(0)
    entries = busybox_root(
        symlink("bin/httpd", "busybox"), directory("www"), file("www/answer", b"forty-two", 0o644)
    )
    serve = f"cat /etc/tls.key; echo; httpd -p 127.0.0.1:{port} -h /www && echo ready; sleep 30"
    argv = ["/bin/sh", "-c", serve]
    with site_with_tpm(tmp_path, argv, entries=entries) as (_, site), site.running() as run:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/answer", timeout=10) as answer:
            assert answer.read() == b"forty-two"
        told = run.output.read_text()
    assert CANARY.decode() in told
    assert "runs in: tpm, the contract's digest is in pcr23" in told


def test_another_tpm_gets_nothing(tmp_path):
    with site_with_tpm(tmp_path, SHOW) as (_, site), SoftwareTpm(tmp_path / "other") as other:
        assert site.launch().stdout == CANARY.decode()
        site.tee = options_of(other)
        done = site.launch()
        assert done.status == 5
        assert CANARY.decode() not in done.stdout
        assert mismatches(site) == {"ak"}


def test_a_machine_in_another_state_gets_nothing(tmp_path):
    with site_with_tpm(tmp_path, SHOW) as (tpm, site):
        with open_tpm(tpm.place) as link:
            TpmCommands("tpm", link).extend(4, bytes(32))  # where firmware measures boot loaders
        assert site.launch().status == 5
        assert mismatches(site) == {"pcr4"}


def test_another_contract_gets_nothing(tmp_path):
    with site_with_tpm(tmp_path, SHOW) as (_, site):
        changed = site.changed(argv=("/bin/cat", "/etc/tls.key"))
        assert site.launch(contract=changed).status == 5
        assert mismatches(site) == {"launch", f"pcr{TPM_PCR}"}


def test_a_machine_without_a_tpm_starts_nothing(tmp_path):
    with launch_site(tmp_path, SHOW) as site:
        site.tee = ("--tee", "tpm", "--tee-device", str(tmp_path / "nowhere"))
        assert site.launch().status == 2
        site.services.stop()  # without a broker it doesn't wait for one first
        began = time.monotonic()
        done = site.launch("--broker-timeout", "20")
        assert time.monotonic() - began < 10
    assert done.status == 2
    assert "tee.absent" in done.stderr


def test_a_client_verifies_the_server_by_this_tpms_quote(tmp_path):
    """The launcher mints under a quote, and what it minted serves; in another state, no more."""
    placement = CertificatePlacement(
        form=CertificateForm.PEM, names=("localhost",), days=1, files=("/k", "/c"), mode=0o400
    )
    show = ["/bin/cat", "/k", "/c"]
    with site_with_tpm(tmp_path, show, certificate=placement) as (tpm, site):
        key, begin, certificate = site.launch().stdout.partition("-----BEGIN CERTIFICATE")
        identity = TlsIdentity(
            private_key=Secret(key.encode()), certificate=(begin + certificate).encode()
        )
        policy = PolicyDocument.parse((site.folder / "policy.toml").read_text())
        with listening(identity, tmp_path) as server:
            verified = verify_server(server.address, policy)
        with open_tpm(tpm.place) as link:
            TpmCommands("tpm", link).extend(4, bytes(32))
        assert site.launch().status == 5
    report = verified.appraised[0].report
    assert (report.tee, report.claims["certificate_form"]) == (Tee.TPM, "wrapped")
    assert verified.launch == site.contract.digest()
    assert verified.pem == identity.certificate
