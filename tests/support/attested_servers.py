"""Servers with attested certificates: genuine ones, and what an attacker makes."""

from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.support.attested import contract_at, launcher_tee

from casemate.evidence import Attester
from casemate.evidence.message import PresentedEvidence
from casemate.evidence.ratls import parse_attested_certificate
from casemate.launcher.certificate import mint_certificate
from casemate.project.tls import TlsIdentity
from casemate.protocol.certificate import make_certificate
from casemate.protocol.contract import LaunchContract, TlsMode
from casemate.protocol.contract_certificate import CertificateForm, CertificatePlacement
from casemate.types import Secret, sha256

NAMES = ("resnet.example",)
PLACEMENT = CertificatePlacement(
    form=CertificateForm.PEM, names=NAMES, days=30, files=("/key", "/certificate"), mode=0o400
)
CONTRACT = contract_at(1, tls=TlsMode.ATTESTED, secrets=(), certificate=PLACEMENT)
OTHER_CONTRACT = contract_at(
    1, tls=TlsMode.ATTESTED, secrets=(), certificate=PLACEMENT, argv=("/bin/server", "--spy")
)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def minted(
    tee: Attester | None = None,
    *,
    contract: LaunchContract = CONTRACT,
    at: datetime.datetime | None = None,
) -> TlsIdentity:
    """What a launcher mints: key and certificate in PEM."""
    made = mint_certificate(contract, tee or launcher_tee(), now=at or now())
    key, certificate = made.files
    return TlsIdentity(private_key=key, certificate=certificate.reveal())


def der(identity: TlsIdentity) -> bytes:
    return x509.load_pem_x509_certificate(identity.certificate).public_bytes(Encoding.DER)


def presented(identity: TlsIdentity) -> PresentedEvidence:
    """The evidence that a certificate shows to everybody."""
    parsed = parse_attested_certificate(identity.certificate)
    return PresentedEvidence(evidence=parsed.evidence, claims_buffer=parsed.claims_buffer)


def forged(
    shows: PresentedEvidence, key: ec.EllipticCurvePrivateKey, names: tuple[str, ...] = NAMES
) -> TlsIdentity:
    """A certificate of an attacker's own key that shows evidence made for somebody else."""
    certificate = make_certificate(key, shows, names=names, at=now(), days=30)
    return TlsIdentity(
        private_key=Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())),
        certificate=certificate.public_bytes(Encoding.PEM),
    )


def spki_hash(key: ec.EllipticCurvePrivateKey) -> bytes:
    return sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@dataclass
class Listener:
    """A TLS server that completes handshakes and keeps what clients send afterwards."""

    port: int
    received: list[bytes]

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"


@contextlib.contextmanager
def listening(identity: TlsIdentity, folder: Path, *, plain: bool = False) -> Iterator[Listener]:
    """Serve handshakes, or without TLS whatever comes, and keep what is sent within."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    key, certificate = folder / "listener.key", folder / "listener.crt"
    key.write_bytes(identity.private_key.reveal())
    certificate.write_bytes(identity.certificate)
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["h2"])
    with _serving(
        lambda each: each if plain else context.wrap_socket(each, server_side=True)
    ) as it:
        yield it


@contextlib.contextmanager
def showing_anothers(own: TlsIdentity, anothers: bytes, folder: Path) -> Iterator[Listener]:
    """A server that shows a certificate whose key it doesn't have, and signs with its own.

    No library does that, so TLS 1.2 is spoken by one between, whose certificate in the clear is
    exchanged on the way: a handshake message with a length, in one record.

    Args:
        own: the attacker's identity; its certificate is replaced.
        anothers: the certificate that is shown, DER.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    key, certificate = folder / "own.key", folder / "own.crt"
    key.write_bytes(own.private_key.reveal())
    certificate.write_bytes(own.certificate)
    context.load_cert_chain(certificate, key)
    shown = _certificate_message(anothers)

    def accept(plain: socket.socket) -> socket.socket | None:
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        connection = context.wrap_bio(into, out, server_side=True)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                connection.do_handshake()
                return None
            plain.sendall(_exchanged(out.read(), shown))
            data = plain.recv(65536)
            if not data:
                return None
            into.write(data)

    with _serving(accept) as it:
        yield it


def _certificate_message(der_bytes: bytes) -> bytes:
    """RFC 5246, section 7.4.2: a list of one certificate."""
    entry = len(der_bytes).to_bytes(3, "big") + der_bytes
    body = len(entry).to_bytes(3, "big") + entry
    return b"\x0b" + len(body).to_bytes(3, "big") + body


def _exchanged(flight: bytes, shown: bytes) -> bytes:
    """A server's flight of handshake records, with another certificate message in it."""
    messages, at = b"", 0
    records = []
    while at < len(flight):
        kind, size = flight[at], int.from_bytes(flight[at + 3 : at + 5], "big")
        records.append((kind, flight[at : at + 3], flight[at + 5 : at + 5 + size]))
        at += 5 + size
    if not records or any(kind != 22 for kind, _, _ in records):
        return flight
    messages = b"".join(body for _, _, body in records)
    made, at = b"", 0
    while at < len(messages):
        size = 4 + int.from_bytes(messages[at + 1 : at + 4], "big")
        made += shown if messages[at] == 11 else messages[at : at + size]
        at += size
    head = records[0][1]
    return b"".join(
        head + len(part).to_bytes(2, "big") + part
        for part in (made[i : i + 8000] for i in range(0, len(made), 8000))
    )


@contextlib.contextmanager
def _serving(accept) -> Iterator[Listener]:  # type: ignore[no-untyped-def]
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(10)
    it = Listener(server.getsockname()[1], [])
    ending = threading.Event()

    def serve() -> None:
        while not ending.is_set():
            with contextlib.suppress(OSError):
                plain, _ = server.accept()
                plain.settimeout(10)
                with plain, contextlib.suppress(OSError):
                    connection = accept(plain)
                    while connection is not None:
                        data = connection.recv(65536)
                        it.received.append(data)
                        if not data:
                            break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield it
    finally:
        ending.set()
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)
