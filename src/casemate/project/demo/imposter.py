"""The host's own server in place of the workload: the genuine evidence, and a key of the host's."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from casemate.client.fetch import SECONDS, fetch_certificate
from casemate.evidence.message import PresentedEvidence
from casemate.evidence.ratls import parse_attested_certificate
from casemate.project.files import write_private
from casemate.protocol.certificate import make_certificate


@contextmanager
def imposter(genuine: str, folder: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Serve TLS with what can be copied of a genuine server: everything but its key.

    Args:
        genuine: ``host:port`` of the server whose evidence is copied.
        folder: where key and certificate go.

    Returns:
        The port, and what clients send there.
    """
    shown = parse_attested_certificate(fetch_certificate(genuine, timeout=SECONDS))
    copied = PresentedEvidence(evidence=shown.evidence, claims_buffer=shown.claims_buffer)
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = make_certificate(key, copied, names=("localhost",), at=now, days=1)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(folder / "imposter.pem", pem + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "imposter.pem")
    context.set_alpn_protocols(["h2"])
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_serve, args=(server, context, received), daemon=True).start()
        try:
            yield server.getsockname()[1], received
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)  # ends the thread's waiting


def _serve(server: socket.socket, context: ssl.SSLContext, received: list[bytes]) -> None:
    while True:
        try:
            plain, _ = server.accept()
        except OSError:
            return
        with contextlib.suppress(OSError), plain:
            plain.settimeout(SECONDS)
            with context.wrap_socket(plain, server_side=True) as connection:
                received.append(connection.recv(1 << 16))
