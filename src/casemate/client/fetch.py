"""Ask a server for its certificate, and for nothing else."""

from __future__ import annotations

import ipaddress
import socket
import ssl

from casemate.client.address import split_address
from casemate.errors import CasemateError, NotGenuineError, UnavailableError

SECONDS = 10.0
"""How long a server may take to show its certificate."""
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "PACKET_LENGTH_TOO_LONG")
_NOT_ITS_KEY = ("BAD_SIGNATURE", "DIGEST_CHECK_FAILED", "WRONG_SIGNATURE_TYPE")


def fetch_certificate(server: str, *, timeout: float) -> bytes:
    """The certificate that a server shows in a TLS handshake, after which the connection ends.

    Args:
        server: ``host:port``.
        timeout: seconds to connect, and again for the handshake.

    Returns:
        DER, at most what OpenSSL takes (100 KiB with its chain).

    Raises:
        UsageError: ``client.server``.
        UnavailableError: ``client.unreachable``, ``client.timeout``.
        NotGenuineError: ``client.server-tls`` where it speaks no TLS, ``client.server-key`` where
            it doesn't hold the key of the certificate that it shows.

    Does not check: anything about the certificate.
    """
    try:
        certificate = _shown(server, _context(), timeout=timeout)
    except ssl.SSLError as error:
        raise _no_handshake(server, error) from error
    except TimeoutError as error:
        raise UnavailableError(
            "client.timeout", f"{server} didn't show its certificate in time",
            expected=f"within {timeout:g} s",
            remedy="Try again. Is it the model server that listens there?",
        ) from error  # fmt: skip
    except OSError as error:
        raise UnavailableError(
            "client.unreachable", f"no connection to {server}", got=error.strerror or str(error),
            remedy="Is the server running there? Is the port right?",
        ) from error  # fmt: skip
    if not certificate:
        raise _no_tls(server, "a handshake without a certificate")
    return certificate


def pin_fault(server: str, pem: bytes, *, timeout: float) -> str | None:
    """Why a server isn't the one of a pinned certificate, by a handshake and nothing more.

    Args:
        server: ``host:port``.
        pem: the certificate.
        timeout: seconds to connect, and again for the handshake.

    Returns:
        What the certificate that it shows lacks, or None where that isn't the fault.
    """
    context = ssl.create_default_context(cadata=pem.decode("ascii"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    try:
        _shown(server, context, timeout=timeout)
    except ssl.SSLCertVerificationError as error:
        return f"{error.reason}: {error.verify_message}"
    except OSError:
        pass
    return None


def _shown(server: str, context: ssl.SSLContext, *, timeout: float) -> bytes | None:
    """The certificate that a server shows in a handshake; nothing else is sent."""
    host, port = split_address(server)
    name = host if context.check_hostname else _indicated(host)
    with (
        socket.create_connection((host, port), timeout=timeout) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.getpeercert(binary_form=True)


def _context() -> ssl.SSLContext:
    """Takes any certificate: what it is worth is judged afterwards, and nothing is sent before."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])  # gRPC's servers want one
    return context


def _indicated(host: str) -> str | None:
    """The name that is asked for: addresses aren't (RFC 6066, section 3)."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host
    return None


def _no_handshake(server: str, error: ssl.SSLError) -> CasemateError:
    reason = error.reason or str(error)
    if reason in _NOT_ITS_KEY:
        return NotGenuineError(
            "client.server-key",
            f"{server} doesn't hold the key of the certificate that it shows",
            field="certificate",
            expected="a handshake that is signed by the certificate's key",
            got=reason,
            remedy="Somebody shows another server's certificate there. Nothing was sent.",
        )
    if reason in _NOT_TLS or isinstance(error, ssl.SSLEOFError):
        return _no_tls(server, reason)
    return UnavailableError(
        "client.unreachable", f"no TLS connection to {server}", got=reason,
        remedy="Is it the model server that listens there? Does it speak TLS 1.2 or 1.3?",
    )  # fmt: skip


def _no_tls(server: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        "client.server-tls",
        f"{server} doesn't speak TLS, so it can't show what it is",
        field="server",
        expected="TLS with an attested certificate",
        got=got,
        remedy='Nothing was sent. Its launch contract must say tls = "attested".',
    )
