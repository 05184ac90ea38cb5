"""A workload's TLS identity, and the file in which TensorFlow Serving reads it."""

import datetime
import ssl

from cryptography import x509

from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config

NOW = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC)


def test_the_certificate_is_for_the_hosts_and_no_authority():
    identity = make_tls_identity(("localhost", "127.0.0.1"), now=NOW)
    certificate = x509.load_pem_x509_certificate(identity.certificate)

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc == NOW + datetime.timedelta(days=90)


def test_the_key_fits_the_certificate(tmp_path):
    identity = make_tls_identity(("localhost",), now=NOW)
    (tmp_path / "pem").write_bytes(identity.private_key.reveal() + identity.certificate)

    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "pem")


def test_the_ssl_config_is_protobuf_text_on_three_lines():
    identity = make_tls_identity(("localhost",), now=NOW)
    text = tensorflow_serving_ssl_config(identity).reveal().decode()

    key, certificate, verify = text.splitlines()
    assert key.startswith("server_key: '-----BEGIN PRIVATE KEY-----\\n")
    assert certificate.endswith("-----END CERTIFICATE-----\\n'")
    assert verify == "client_verify: false"


def test_the_private_key_does_not_show_itself():
    identity = make_tls_identity(("localhost",), now=NOW)

    assert "PRIVATE" not in repr(identity)
