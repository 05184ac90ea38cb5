"""A peer that knows the attested channel's protocol and keeps to it only as far as it likes.

It is written from specs/attested-channel.md on TLS alone, and shares no code with the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL

from casemate.channel.tls import TlsKey, make_tls_key
from casemate.evidence import Attester
from casemate.types import ReportData

T = TypeVar("T")

ALPN = b"casemate-attested-channel/1"
EVIDENCE, ACCEPTED, REFUSED = 1, 2, 3
_SECONDS = 8.0


def tls_key_of(private_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> TlsKey:
    """A TLS key of any kind, with a certificate for it."""
    template = make_tls_key().certificate
    public = private_key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .sign(private_key, hashes.SHA256())
    )
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TlsKey(private_key, certificate, spki)  # type: ignore[arg-type]


class MaliciousPeer:
    """One end of a connection.

    Args:
        network: the TCP connection.
        server: whether it plays the server.
        key: its TLS key; a new one if not given.
        alpn: the protocol names that it offers, or of which it takes one.
        version: the one version of TLS that it speaks.
        certificate: whether it presents one.
    """

    def __init__(
        self,
        network: socket.socket,
        *,
        server: bool = False,
        key: TlsKey | None = None,
        alpn: Sequence[bytes] = (ALPN,),
        version: int = SSL.TLS1_3_VERSION,
        certificate: bool = True,
    ) -> None:
        self.network = network
        self.key = key or make_tls_key()
        self.server = server
        network.settimeout(_SECONDS)
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        if certificate:
            context.use_privatekey(self.key.private_key)
            context.use_certificate(self.key.certificate)
        if alpn and server:
            context.set_alpn_select_callback(lambda *_: alpn[0])
        elif alpn:
            context.set_alpn_protos(list(alpn))
        self._tls = SSL.Connection(context, None)
        if server:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()

    def handshake(self) -> MaliciousPeer:
        """Bring TLS up; an `SSL.Error` or `OSError` where the other side doesn't want it."""
        self._wait_for(self._tls.do_handshake)
        return self

    @property
    def peer_spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the other side's TLS key."""
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        return certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    def nonce(self, role: bytes) -> bytes:
        """The nonce that evidence of ``role`` must carry on this connection."""
        exporter = self._tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        ours, theirs = (hashlib.sha256(spki).digest() for spki in (self.key.spki, self.peer_spki))
        keys = theirs + ours if self.server else ours + theirs
        return hmac.digest(
            exporter, b"casemate-attested-channel/1 " + role + b"\0" + keys, "sha256"
        )

    @property
    def own_nonce(self) -> bytes:
        """The nonce that its own evidence must carry."""
        return self.nonce(b"server" if self.server else b"client")

    def send(self, data: bytes) -> None:
        """Send bytes inside TLS."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.send(bytes(rest[:16384])) :]
        self._flush()

    def send_frame(self, kind: int, body: bytes) -> None:
        """Send a frame, whatever its type and length."""
        self.send(bytes([kind]) + len(body).to_bytes(4, "big") + body)

    def present(
        self, attester: Attester, *, launch: bytes | None = None, nonce: bytes | None = None
    ) -> bytes:
        """Present an attester's evidence as one should, with another nonce if given; returns it."""
        message = evidence_message(
            attester, claims_of(self.key.spki, nonce=nonce or self.own_nonce, launch=launch)
        )
        self.send_frame(EVIDENCE, message)
        return message

    def read(self) -> bytes:
        """Some bytes from inside TLS; none when the other side has ended the connection."""
        with contextlib.suppress(SSL.ZeroReturnError, SSL.SysCallError, ConnectionError):
            return self._wait_for(lambda: self._tls.recv(65536))
        return b""

    def read_to_the_end(self) -> bytes:
        """Everything from inside TLS until the other side ends the connection."""
        data = b""
        while more := self.read():
            data += more
        return data

    def read_frame(self) -> tuple[int, bytes] | None:
        """A frame; None when the other side has ended the connection."""
        data = b""
        while len(data) < 5 or len(data) < 5 + int.from_bytes(data[1:5], "big"):
            more = self.read()
            if not more:
                return None
            data += more
        assert len(data) == 5 + int.from_bytes(data[1:5], "big"), "more than one frame"
        return data[0], data[5:]

    def read_refusal(self) -> str:
        """The code of a refusal, after which the connection has ended."""
        frame = self.read_frame()
        assert frame is not None, "ended without a word"
        kind, body = frame
        assert kind == REFUSED, frame
        refusal = cbor2.loads(body)
        assert refusal.keys() == {"code", "correlation-id"}
        assert self.read() == b""
        return str(refusal["code"])

    def _wait_for(self, call: Callable[[], T]) -> T:
        while True:
            try:
                result = call()
            except SSL.WantReadError:
                self._flush()
                data = self.network.recv(65536)
                if not data:
                    raise ConnectionResetError("the other side ended the connection") from None
                self._tls.bio_write(data)
            except SSL.Error:
                self._flush()  # the alert that says why
                raise
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        # That the other side has ended the connection is for `read` to tell.
        with contextlib.suppress(SSL.WantReadError, ConnectionError):
            while True:
                self.network.sendall(self._tls.bio_read(65536))


def claims_of(
    spki: bytes, *, nonce: bytes | None = None, launch: bytes | None = None, **more: bytes
) -> bytes:
    """A claims buffer for a TLS key."""
    pubkey_hash = cbor2.dumps([1, hashlib.sha256(spki).digest()], canonical=True)
    claims = {"pubkey-hash": pubkey_hash, "nonce": nonce, "launch": launch, **more}
    return cbor2.dumps({k: v for k, v in claims.items() if v is not None}, canonical=True)


def evidence_message(attester: Attester, claims: bytes, *, shown: bytes | None = None) -> bytes:
    """An evidence message: evidence for a claims buffer, beside it or beside another one."""
    evidence = attester.attest(ReportData(hashlib.sha256(claims).digest() + bytes(32)))
    return message_of(evidence.tee.value, evidence.data, claims if shown is None else shown)


def message_of(tee: str, evidence: bytes, claims: bytes) -> bytes:
    """An evidence message of any parts."""
    return cbor2.dumps(
        {"tee": tee, "evidence": evidence, "endorsements": [], "claims": claims}, canonical=True
    )


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    """A TCP connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), timeout=_SECONDS) as network:
        yield network


@contextmanager
def attacking(port: int, key: TlsKey | None = None) -> Iterator[MaliciousPeer]:
    """A malicious client, after the TLS handshake with the server at ``port``."""
    with connected(port) as network:
        yield MaliciousPeer(network, key=key).handshake()


@contextmanager
def malicious_server(serve: Callable[[socket.socket], None], *, port: int = 0) -> Iterator[int]:
    """A server on 127.0.0.1 that does to its one connection what ``serve`` does; gives the port."""
    failures: list[BaseException] = []
    with socket.create_server(("127.0.0.1", port)) as listener:
        listener.settimeout(_SECONDS)

        def run() -> None:
            try:
                with listener.accept()[0] as network:
                    network.settimeout(_SECONDS)
                    serve(network)
            except BaseException as error:  # noqa: BLE001  it is raised again below
                failures.append(error)

        thread = threading.Thread(target=run, name="malicious server")
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join(2 * _SECONDS)
    assert not thread.is_alive(), "the malicious server doesn't end"
    if failures:
        raise failures[0]


def relay(
    network: socket.socket, port: int, change: Callable[[bool, bytes], bytes] = lambda _, data: data
) -> bytes:
    """Stand between a client and the server at ``port``, below TLS, until either ends.

    Args:
        network: the client's connection.
        port: of the server.
        change: makes what goes on of what came, told whether it goes to the server.

    Returns:
        Every byte that was seen.
    """
    seen = b""
    with connected(port) as onward, contextlib.suppress(OSError):
        ways = {network: onward, onward: network}
        while True:
            for source in select.select(list(ways), [], [], _SECONDS)[0]:
                data = source.recv(65536)
                seen += data
                if not data:
                    return seen
                ways[source].sendall(change(source is network, data))
    return seen
