"""Launches whose certificate the launcher mints: what the workload finds, and what it is worth."""

import datetime
import json
import re

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from tests.support.attested import ROOT, contract_at, launcher_tee
from tests.support.launches import busybox_root, launch_site, needs_busybox, root_choices
from tests.support.trees import directory, symlink

from casemate.launcher.certificate import mint_certificate
from casemate.policy import PolicyDocument, appraise
from casemate.protocol.contract import TlsMode
from casemate.protocol.contract_certificate import CertificateForm, CertificatePlacement
from casemate.serving.ssl_config import parse_ssl_config
from casemate.types import sha256
from casemate.verify import Known, TrustAnchors
from casemate.verify.ratls import check_own_word, verify_attested_certificate

KEY, CERTIFICATE, CONFIG = "/etc/tls/server.key", "/etc/tls/server.crt", "/etc/tf_ssl.cfg"
NAMES = ("localhost", "resnet.example", "127.0.0.1")
NOW = datetime.datetime.now(datetime.UTC)


def placement(form=CertificateForm.PEM, **changes):
    files = (KEY, CERTIFICATE) if form is CertificateForm.PEM else (CONFIG,)
    fields = {"form": form, "names": NAMES, "days": 30, "files": files, "mode": 0o440}
    return CertificatePlacement(**{**fields, **changes})


def spki(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(params=root_choices())
def root(request):
    return f"--root={request.param}"


@needs_busybox
def test_the_workload_finds_a_key_and_a_certificate_that_the_policy_accepts(tmp_path, root):
    script = f"cat {KEY} {CERTIFICATE}; stat -c '%a %u' {KEY} {CERTIFICATE}"
    with launch_site(
        tmp_path, ["/bin/sh", "-c", script], certificate=placement(), user=1000
    ) as site:
        done = site.launch(root, "--json")
        policy = PolicyDocument.parse((tmp_path / "policy.toml").read_text())
        audit = site.audit.read_text()
    assert done.status == 0, done.stderr
    assert done.stdout.count("440 1000") == 2
    pem = done.stdout.encode()
    key = load_pem_private_key(pem[: pem.index(b"-----BEGIN CERT")], password=None)
    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERT") :])
    der = certificate.public_bytes(Encoding.DER)

    assert isinstance(key.curve, ec.SECP256R1)
    assert spki(key.public_key()) == spki(certificate.public_key())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(str(each.value) for each in names) == NAMES
    now = datetime.datetime.now(datetime.UTC)
    report = verify_attested_certificate(der, anchors=policy.trust_anchors(), known=Known(at=now))
    check_own_word(der, at=now, max_age=datetime.timedelta(minutes=10))
    assert certificate.not_valid_after_utc - now < datetime.timedelta(days=30)
    (launcher,) = policy.policies.values()
    assert appraise(launcher, report, launch=site.contract.digest(), at=now)
    assert report.claims["launch"] == site.contract.digest()
    (event,) = (json.loads(line) for line in done.stdout.splitlines() if '"certificate"' in line)
    assert event["sha256"] == certificate.fingerprint(hashes.SHA256()).hex()
    assert event["sha256"] in done.stderr
    for said in (done.stderr, audit):
        assert "PRIVATE" not in said


@needs_busybox
def test_each_launch_has_a_key_of_its_own(tmp_path):
    with launch_site(tmp_path, ["/bin/cat", CERTIFICATE], certificate=placement()) as site:
        certificates = [site.launch().stdout for _ in range(2)]
    assert all(each.startswith("-----BEGIN CERTIFICATE") for each in certificates)
    assert certificates[0] != certificates[1]


@needs_busybox
def test_tensorflow_serving_finds_both_in_one_file(tmp_path):
    form = placement(CertificateForm.TENSORFLOW_SERVING)
    with launch_site(tmp_path, ["/bin/cat", CONFIG], certificate=form) as site:
        done = site.launch()
    config = parse_ssl_config(done.stdout.encode())
    key = load_pem_private_key(config.server_key.encode(), password=None)
    certificate = x509.load_pem_x509_certificate(config.server_cert.encode())
    assert spki(key.public_key()) == spki(certificate.public_key())


@needs_busybox
def test_a_link_in_the_image_leads_key_and_certificate_nowhere(tmp_path):

    entries = busybox_root(directory("elsewhere"), symlink("etc/tls", "/elsewhere"))
    with launch_site(
        tmp_path, ["/bin/ls", "/elsewhere"], entries=entries, certificate=placement()
    ) as site:
        done = site.launch()
    assert (done.status, done.stdout) == (2, "")
    assert "launcher.placement" in done.stderr


@needs_busybox
def test_a_launch_that_is_refused_mints_nothing(tmp_path):
    with launch_site(tmp_path, ["/bin/true"], certificate=placement()) as site:
        done = site.launch("--json", contract=site.changed(argv=("/bin/ls",)))
    assert done.status == 5
    assert "certificate" not in done.stdout


@pytest.mark.parametrize("form", CertificateForm)
def test_what_is_minted(form):
    contract = contract_at(1, tls=TlsMode.ATTESTED, secrets=(), certificate=placement(form))
    minted = mint_certificate(contract, launcher_tee(), now=NOW)
    whole = b"".join(each.reveal() for each in minted.files).replace(b"\\n", b"\n")
    pem = re.search(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", whole, re.DOTALL)
    certificate = x509.load_pem_x509_certificate(pem[0])
    report = verify_attested_certificate(
        certificate.public_bytes(Encoding.DER),
        anchors=TrustAnchors(development_roots=(ROOT.spki,)),
        known=Known(at=NOW),
    )
    assert report.claims["launch"] == contract.digest()
    assert report.claims["public_key"] == sha256(spki(certificate.public_key()))
    assert minted.until == certificate.not_valid_after_utc
    assert "PRIVATE" not in repr(minted)
