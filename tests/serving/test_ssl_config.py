"""The file behind --ssl_config_file: read as TensorFlow Serving does, and never shown."""

import datetime

import pytest

from casemate.errors import MalformedError, UsageError
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config
from casemate.serving.ssl_config import load_ssl_config, parse_ssl_config

IDENTITY = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))
GOOD = tensorflow_serving_ssl_config(IDENTITY).reveal()
CANARY = "MIIcanaryKEYcanary"


def test_the_reference_systems_form_is_read():
    config = parse_ssl_config(GOOD)

    assert config.server_key.encode() == IDENTITY.private_key.reveal()
    assert config.server_cert.encode() == IDENTITY.certificate
    assert not config.client_verify


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (f"server_key: '{CANARY}'".encode(), "server_key"),
        (f"server_key: '-----BEGIN PRIVATE KEY-----\n{CANARY}'".encode(), "text"),
        (f"server_key '{CANARY}'".encode(), "text"),
        (f"{CANARY}: ''".encode(), "text"),
        (f"server_key: {CANARY}".encode(), "text"),
        (b"\xff\xfe" + CANARY.encode(), "text"),
        (GOOD + GOOD, "text"),
        (GOOD.replace(b"server_cert", b"custom_ca"), "server_cert"),
        (GOOD.replace(b"client_verify: false", b"client_verify: true"), "custom_ca"),
        (GOOD + b"custom_ca: 'junk'", "custom_ca"),
        (b" " * (1 << 20) + GOOD, "size"),
        (b"", "server_key"),
    ],
)
def test_what_is_not_an_ssl_config_is_refused_without_showing_it(content, field):
    with pytest.raises(MalformedError) as caught:
        parse_ssl_config(content)

    assert caught.value.field == field
    shown = f"{caught.value} {caught.value.as_dict()} {caught.value.__cause__!r}"
    assert CANARY not in shown
    assert "MIG" not in shown


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        load_ssl_config(tmp_path / "absent")
