"""The attested channel's protocol without I/O: bytes in, events and bytes out.

Rules (specs/attested-channel.md; each is cited where it is carried out):

 1. TLS 1.3, the private ALPN name, a certificate of both sides (`casemate.channel.tls`).
 2. Each side's TLS key is P-256.
 3. The peer's key differs from our own.
 4. Nothing but frames before the channel is open, each in the state that awaits it.
 5. The server presents evidence first; the client presents its own only once it accepted that.
 6. A side's nonce is an HMAC of the exporter over its role and both keys.
 7. The channel opens for the client with the server's ``accepted``, and for the server when it
    sends it.
 8. A refusal carries a code and a correlation id, and nothing else.
 9. A frame's body is at most as long as its type allows, 256 KiB for evidence; what a frame
    doesn't announce isn't buffered.

Any input gives an event or one of `MalformedError`, `NotGenuineError`, `RefusedByPeerError`, and
its end before the channel is open `UnavailableError`; after an error the engine is closed for
good. Attesting and judging are the caller's: the engine says when (`PresentEvidence`,
`JudgeEvidence`) and with which nonce.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TypeAlias

from OpenSSL import SSL

from casemate.channel.party import RefusedByPeerError
from casemate.channel.tls import TlsKey, exporter, make_context, peer_spki
from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import InternalError, MalformedError, NotGenuineError, UnavailableError
from casemate.protocol import PresentedEvidence
from casemate.types import Nonce

MAX_FRAME = 256 * 1024
_MAX_REFUSAL = 256
_HEADER = 5
_READ = 64 * 1024
_CODE = re.compile(r"[a-z0-9.-]{1,64}\Z", re.ASCII)
_ID = re.compile(r"[0-9a-f]{1,32}\Z", re.ASCII)


class Role(enum.Enum):
    """Which side we are; part of the nonce, so that neither's evidence is the other's."""

    CLIENT = b"client"
    SERVER = b"server"


class _State(enum.Enum):
    HANDSHAKE = enum.auto()
    PRESENTING = enum.auto()
    AWAITING_EVIDENCE = enum.auto()
    JUDGING = enum.auto()
    AWAITING_VERDICT = enum.auto()
    OPEN = enum.auto()
    CLOSED = enum.auto()


class _Frame(enum.IntEnum):
    EVIDENCE = 1
    ACCEPTED = 2
    REFUSED = 3


# Rule 9: the longest body of each.
_LIMITS = {_Frame.EVIDENCE: MAX_FRAME, _Frame.ACCEPTED: 0, _Frame.REFUSED: _MAX_REFUSAL}

# Rule 4: what each state awaits. A frame or byte in any other state ends the connection.
_AWAITED = {
    _State.AWAITING_EVIDENCE: {_Frame.EVIDENCE, _Frame.REFUSED},
    _State.AWAITING_VERDICT: {_Frame.ACCEPTED, _Frame.REFUSED},
}


@dataclass(frozen=True, slots=True)
class PresentEvidence:
    """It is our turn: make evidence for ``nonce`` and our key, and call `present`."""

    nonce: Nonce
    spki: bytes


@dataclass(frozen=True, slots=True)
class JudgeEvidence:
    """The peer presented: verify against ``nonce`` and its key, then `accept` or `refuse`."""

    presented: PresentedEvidence
    nonce: Nonce
    spki: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """The channel is open: inner data may flow both ways."""


@dataclass(frozen=True, slots=True)
class InnerData:
    """Bytes of the inner protocol."""

    data: bytes


@dataclass(frozen=True, slots=True)
class PeerClosed:
    """The peer ended the open channel in order (TLS close_notify)."""


Event: TypeAlias = PresentEvidence | JudgeEvidence | Opened | InnerData | PeerClosed


def channel_nonce(binding: bytes, role: Role, *, client_spki: bytes, server_spki: bytes) -> Nonce:
    """The nonce that evidence of ``role`` must carry on this connection (rule 6).

    Args:
        binding: the TLS exporter's 32 bytes.
        role: whose evidence.
        client_spki: DER SubjectPublicKeyInfo of the client's TLS key.
        server_spki: of the server's.
    """
    message = (
        b"casemate-attested-channel/1 "
        + role.value
        + b"\x00"
        + hashlib.sha256(client_spki).digest()
        + hashlib.sha256(server_spki).digest()
    )
    return Nonce(hmac.digest(binding, message, "sha256"))


class ChannelEngine:
    """One connection's state.

    Args:
        role: which side we are.
        key: our ephemeral TLS key.
        context: made of ``key``, if the caller shares one between connections.
    """

    def __init__(self, role: Role, key: TlsKey, context: SSL.Context | None = None) -> None:
        self._role = role
        self._key = key
        self._tls = SSL.Connection(context or make_context(key), None)
        self._state = _State.HANDSHAKE
        self._frames = bytearray()
        self._nonces: dict[Role, Nonce] = {}
        self._peer_spki = b""
        if role is Role.CLIENT:
            self._tls.set_connect_state()
        else:
            self._tls.set_accept_state()

    def start(self) -> None:
        """Begin: a client's first flight is then in `data_to_send`."""
        self._handshake()

    @property
    def group(self) -> str:
        """The key exchange that the handshake took, for logs."""
        return self._tls.get_group_name() or "none"

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes from the network; none means that the connection ended.

        Raises:
            MalformedError: ``channel.frame``, ``channel.unexpected``.
            NotGenuineError: ``channel.tls`` and those of `peer_spki`.
            UnavailableError: ``channel.cut``.
            RefusedByPeerError: the peer refused.
        """
        try:
            return self._receive(data)
        except SSL.Error as error:
            self._state = _State.CLOSED
            raise NotGenuineError(
                "channel.tls",
                "the TLS connection failed",
                field="TLS",
                expected="TLS 1.3 with a certificate of both sides",
                got=_reason(error),
                remedy="Check that the address leads to a Casemate endpoint of the same release.",
            ) from error
        except BaseException:
            self._state = _State.CLOSED
            raise

    def data_to_send(self) -> bytes:
        """The bytes that wait for the network; empty if none do."""
        parts = []
        while True:
            try:
                parts.append(self._tls.bio_read(_READ))
            except SSL.WantReadError:
                return b"".join(parts)

    def present(self, presented: PresentedEvidence) -> None:
        """Send our evidence (rule 5)."""
        self._require(_State.PRESENTING)
        self._send_frame(_Frame.EVIDENCE, presented.encode())
        self._state = (
            _State.AWAITING_EVIDENCE if self._role is Role.SERVER else _State.AWAITING_VERDICT
        )

    def accept(self) -> list[Event]:
        """Accept the peer's evidence; our own is next (client), or the channel opens (server)."""
        self._require(_State.JUDGING)
        if self._role is Role.CLIENT:
            self._state = _State.PRESENTING
            return [PresentEvidence(self._nonces[self._role], self._key.spki)]
        self._send_frame(_Frame.ACCEPTED, b"")
        self._state = _State.OPEN
        return [Opened()]

    def refuse(self, code: str, correlation_id: str) -> None:
        """Tell the peer that it is refused (rule 8), and close. Nothing is sent before keys are."""
        if self._state not in {_State.HANDSHAKE, _State.CLOSED, _State.OPEN}:
            message = {"code": code, "correlation-id": correlation_id}
            self._send_frame(_Frame.REFUSED, encode_cbor(message))
        self.close()

    def send(self, data: bytes) -> None:
        """Send inner data on the open channel."""
        self._require(_State.OPEN)
        self._write(data)

    def close(self) -> None:
        """End the connection in order. Idempotent."""
        if self._state is not _State.CLOSED:
            established = self._state is not _State.HANDSHAKE
            self._state = _State.CLOSED
            if established:
                self._tls.shutdown()

    def _receive(self, data: bytes) -> list[Event]:
        if self._state is _State.CLOSED:
            return []
        if not data:
            raise self._cut()
        events: list[Event] = []
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.bio_write(bytes(rest[:_READ])) :]
            if self._state is _State.HANDSHAKE:
                events += self._handshake()
            if self._state is not _State.HANDSHAKE:
                events += self._read()
        return events

    def _handshake(self) -> list[Event]:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return []
        self._peer_spki = peer_spki(self._tls, own=self._key.spki)
        keys = {self._role: self._key.spki}
        keys[Role.SERVER if self._role is Role.CLIENT else Role.CLIENT] = self._peer_spki
        binding = exporter(self._tls)
        self._nonces = {
            role: channel_nonce(
                binding, role, client_spki=keys[Role.CLIENT], server_spki=keys[Role.SERVER]
            )
            for role in Role
        }
        if self._role is Role.CLIENT:
            self._state = _State.AWAITING_EVIDENCE
            return []
        self._state = _State.PRESENTING
        return [PresentEvidence(self._nonces[self._role], self._key.spki)]

    def _read(self) -> list[Event]:
        events: list[Event] = []
        while self._state is not _State.CLOSED:
            try:
                data = self._tls.recv(_READ)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:
                if self._state is not _State.OPEN:
                    raise self._cut() from None
                self.close()
                events.append(PeerClosed())
                break
            events += self._take(data)
        return events

    def _take(self, data: bytes) -> list[Event]:
        if self._state is _State.OPEN:
            return [InnerData(data)]
        awaited = _AWAITED.get(self._state)
        if awaited is None:  # rule 4
            raise self._unexpected("channel.unexpected", "silence", f"{len(data)} bytes")
        self._frames += data
        # Rule 9: judge a frame by its header, before its body is waited for.
        if self._frames and self._frames[0] not in awaited:
            raise self._unexpected(
                "channel.unexpected",
                " or ".join(sorted(kind.name.lower() for kind in awaited)),
                f"frame type {self._frames[0]}",
            )
        if len(self._frames) < _HEADER:
            return []
        kind, length = _Frame(self._frames[0]), int.from_bytes(self._frames[1:_HEADER], "big")
        if length > _LIMITS[kind]:
            raise self._unexpected(
                "channel.frame", f"at most {_LIMITS[kind]} bytes", f"{length} bytes"
            )
        if len(self._frames) < _HEADER + length:
            return []
        body = bytes(self._frames[_HEADER : _HEADER + length])
        rest = bytes(self._frames[_HEADER + length :])
        self._frames.clear()
        return self._take_frame(kind, body, rest)

    def _take_frame(self, kind: _Frame, body: bytes, rest: bytes) -> list[Event]:
        if kind is _Frame.REFUSED:
            raise _parse_refusal(body)
        if kind is _Frame.ACCEPTED:  # rule 7
            self._state = _State.OPEN
            return [Opened(), *([InnerData(rest)] if rest else [])]
        if rest:  # rule 4: the peer must wait for our answer
            raise self._unexpected("channel.unexpected", "silence", f"{len(rest)} bytes")
        presented = PresentedEvidence.parse(body)
        self._state = _State.JUDGING
        peer = Role.SERVER if self._role is Role.CLIENT else Role.CLIENT
        return [JudgeEvidence(presented, self._nonces[peer], self._peer_spki)]

    def _send_frame(self, kind: _Frame, body: bytes) -> None:
        if len(body) > MAX_FRAME:
            raise InternalError("channel.frame", f"our own frame of {len(body)} bytes is too large")
        self._write(bytes([kind]) + len(body).to_bytes(4, "big") + body)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:  # pyOpenSSL allows partial writes
            rest = rest[self._tls.send(bytes(rest[:_READ])) :]

    def _require(self, state: _State) -> None:
        if self._state is not state:
            raise InternalError("channel.state", f"called in {self._state.name}, not {state.name}")

    def _cut(self) -> UnavailableError:
        # Says nothing of the peer: it may be full or about to restart, or the network may be cut.
        return UnavailableError(
            "channel.cut",
            "the connection ended before the channel was open",
            field=self._state_name(),
            remedy="Try again; if it stays so, look at the other side's log.",
        )

    def _state_name(self) -> str:
        return self._state.name.lower().replace("_", " ")

    def _unexpected(self, code: str, expected: str, got: str) -> MalformedError:
        return MalformedError(
            code,
            "the peer doesn't keep to the attested channel's protocol",
            field=self._state_name(),
            expected=expected,
            got=got,
            remedy="Check that the address leads to a Casemate endpoint of the same release.",
        )


def _parse_refusal(body: bytes) -> RefusedByPeerError:
    fields = MapReader(decode_cbor(body, what="refusal", max_size=_MAX_REFUSAL), what="refusal")
    code, correlation_id = fields.take("code", str), fields.take("correlation-id", str)
    fields.finish()
    if not _CODE.match(code) or not _ID.match(correlation_id):
        raise MalformedError(
            "channel.refusal", "a refusal with an unusual code or id", field="refusal"
        )
    return RefusedByPeerError(code, correlation_id)


def _reason(error: SSL.Error) -> str:
    if error.args and isinstance(error.args[0], list) and error.args[0]:
        return "; ".join(str(entry[-1]) for entry in error.args[0])
    return type(error).__name__
