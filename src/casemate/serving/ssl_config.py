"""The server's TLS key and certificate, from TensorFlow Serving's ``SSLConfig`` text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from google.protobuf import text_format

from casemate.errors import MalformedError, UsageError
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_MAX_BYTES: Final = 1 << 20
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----\n")
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----\n")


def load_ssl_config(path: Path) -> wire.SSLConfig:
    """Read the file behind ``--ssl_config_file``.

    Raises:
        UsageError: ``serving.ssl-config`` where it can't be read.
        MalformedError: ``serving.ssl-config`` where it isn't an ``SSLConfig``. The file holds a
            private key, so neither error shows anything of it.

    Does not check: that the key fits the certificate. That shows when a port is opened.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(
            "serving.ssl-config",
            f"the TLS configuration can't be read: {error.strerror}",
            field=str(path),
        ) from error
    return parse_ssl_config(content)


def parse_ssl_config(content: bytes) -> wire.SSLConfig:
    """Parse and check the text.

    Raises:
        MalformedError: ``serving.ssl-config``.
    """
    if len(content) > _MAX_BYTES:
        raise _malformed("size", f"at most {_MAX_BYTES} bytes")
    config = wire.SSLConfig()
    try:
        text_format.Parse(content.decode("utf-8"), config)
    except (UnicodeDecodeError, text_format.ParseError) as error:
        place = "not UTF-8"
        if isinstance(error, text_format.ParseError) and error.GetLine() is not None:
            place = f"line {error.GetLine()}, column {error.GetColumn()}"
        # Not "from error": the parser quotes what it read, and that may be the key.
        raise _malformed("text", "protocol buffer text", got=place) from None
    if not _PRIVATE_KEY.search(config.server_key):
        raise _malformed("server_key", "a private key in PEM")
    if not _CERTIFICATE.search(config.server_cert):
        raise _malformed("server_cert", "a certificate in PEM")
    if config.custom_ca and not _CERTIFICATE.search(config.custom_ca):
        raise _malformed("custom_ca", "a certificate in PEM, or nothing")
    if config.client_verify and not config.custom_ca:
        raise _malformed("custom_ca", "who signs the clients' certificates: client_verify is true")
    return config


def _malformed(field: str, expected: str, got: str | None = None) -> MalformedError:
    return MalformedError(
        "serving.ssl-config",
        "the TLS configuration isn't an SSLConfig",
        field=field,
        expected=expected,
        got=got,
        remedy="Make one with: casemate secret tls --for tensorflow-serving",
    )
