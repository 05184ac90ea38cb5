"""``casemate secret tls`` as a program: a key for the workload, a certificate for its users."""

import ipaddress
import json
import re
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from casemate.project.programs import casemate_command, run_program


def secret_tls(folder, *options, code=0):
    command = casemate_command(
        "secret", "tls", str(folder / "secrets"), "--crt", str(folder / "server.crt"), *options
    )
    done = run_program(command, timeout=30)
    assert done.status == code, done.stderr
    return done


def certificate_of(folder):
    return x509.load_pem_x509_certificate((folder / "server.crt").read_bytes())


def public_bytes(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_tensorflow_servings_secret_is_private_and_fits_the_certificate(tmp_path):
    report = json.loads(secret_tls(tmp_path, "--json").stdout)
    assert report["secrets"] == ["ssl_config"]
    path = tmp_path / "secrets" / "ssl_config"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    text = path.read_text()
    (pem,) = re.findall(r"^server_key: '(.*)'$", text, re.MULTILINE)
    key = load_pem_private_key(pem.replace("\\n", "\n").encode(), None)
    assert public_bytes(key.public_key()) == public_bytes(certificate_of(tmp_path).public_key())
    (crt,) = re.findall(r"^server_cert: '(.*)'$", text, re.MULTILINE)
    assert crt.replace("\\n", "\n") == (tmp_path / "server.crt").read_text()


def test_pem_files_are_what_a_server_can_load(tmp_path):
    secret_tls(tmp_path, "--for", "pem", "--host", "model.example", "--host", "192.0.2.7")
    key, certificate = (tmp_path / "secrets" / f"tls_{name}" for name in ("key", "certificate"))
    for path in (key, certificate):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    names = certificate_of(tmp_path).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value  # fmt: skip
    assert names.get_values_for_type(x509.DNSName) == ["model.example"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("192.0.2.7")]


def test_the_key_never_comes_out_on_the_terminal(tmp_path):
    done = secret_tls(tmp_path)
    assert "PRIVATE KEY" not in done.stdout + done.stderr
    assert "ssl_config" in done.stderr
    assert done.stdout == ""


def test_a_certificate_lasts_as_long_as_was_asked(tmp_path):
    secret_tls(tmp_path, "--days", "7")
    certificate = certificate_of(tmp_path)
    lasts = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lasts.days == 7
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)


def test_a_secret_is_never_overwritten(tmp_path):
    secret_tls(tmp_path)
    before = (tmp_path / "secrets" / "ssl_config").read_bytes()
    done = secret_tls(tmp_path, code=2)
    assert "exists already" in done.stderr
    assert (tmp_path / "secrets" / "ssl_config").read_bytes() == before


@pytest.mark.parametrize(
    "options", [("--days", "0"), ("--days", "10000"), ("--for", "apache"), ("--hosts", "x")]
)
def test_a_wrong_option_makes_nothing(tmp_path, options):
    secret_tls(tmp_path, *options, code=2)
    assert list(tmp_path.iterdir()) == []
