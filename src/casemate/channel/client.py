"""The client's end: one attested connection, offered to a local program as a unix socket.

Plain sockets and two threads: a launcher loads no event loop for its single connection.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from casemate.channel.engine import (
    ChannelEngine,
    Event,
    InnerData,
    JudgeEvidence,
    Opened,
    PeerClosed,
    PresentEvidence,
    Role,
)
from casemate.channel.exchange import judge_evidence, make_evidence
from casemate.channel.party import ChannelParty, Limits
from casemate.channel.sockets import socket_directory
from casemate.channel.tls import make_tls_key
from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.protocol import VerifiedPeer

T = TypeVar("T")

_READ = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel(Generic[T]):
    """An open channel.

    Args:
        target: where a local program connects, once: ``unix:PATH``.
        peer: what ``judge`` made of the peer.
        group: the TLS key exchange that was taken.
    """

    target: str
    peer: T
    group: str


@contextlib.contextmanager
def attested_tunnel(
    host: str,
    port: int,
    *,
    party: ChannelParty,
    judge: Callable[[VerifiedPeer], T],
    limits: Limits | None = None,
    on_connected: Callable[[], None] = lambda: None,
) -> Iterator[Tunnel[T]]:
    """Open an attested channel, and offer it on a unix socket while the block runs.

    Args:
        host: name or address of the server.
        port: its TCP port.
        party: our side.
        judge: takes the verified server; raises to refuse it, before our evidence is sent.
        limits: of time.
        on_connected: told when our first packet is out.

    Raises:
        UnavailableError: ``channel.unreachable``, ``channel.timeout``, ``channel.thread``.
        MalformedError, NotGenuineError, NotAcceptableError: the server isn't what it should be.
        RefusedByPeerError: the server refused us.
    """
    limits = limits or Limits()
    deadline = time.monotonic() + limits.handshake_seconds
    engine = ChannelEngine(Role.CLIENT, make_tls_key())
    with _connect(host, port, deadline) as network:
        peer, early = _handshake(engine, network, party, judge, deadline, on_connected)
        with socket_directory() as directory, socket.socket(socket.AF_UNIX) as listener:
            path = directory / secrets.token_hex(8)
            listener.bind(str(path))
            listener.listen(1)
            pump = threading.Thread(
                target=_pump, args=(engine, network, listener, early), daemon=True
            )
            try:
                pump.start()
            except RuntimeError as error:
                raise UnavailableError(
                    "channel.thread",
                    "no thread can be started that carries the channel",
                    got=str(error),
                    remedy="Try again, or allow more processes: ulimit -u, or the pids limit of "
                    "its container.",
                ) from error
            try:
                yield Tunnel(target=f"unix:{path}", peer=peer, group=engine.group)
            finally:
                # Wakes the pump wherever it waits; it ends with either socket.
                for end in (network, listener):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                pump.join()


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    try:
        network = socket.create_connection((host, port), timeout=_left(deadline))
    except OSError as error:
        raise UnavailableError(
            "channel.unreachable",
            f"{host}:{port} can't be reached",
            field="address",
            got=error.strerror or str(error),
            remedy="Check that the broker runs there and that the network leads to it.",
        ) from error
    network.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return network


def _handshake(
    engine: ChannelEngine,
    network: socket.socket,
    party: ChannelParty,
    judge: Callable[[VerifiedPeer], T],
    deadline: float,
    on_connected: Callable[[], None],
) -> tuple[T, bytes]:
    """Bring the channel up; returns the peer, and inner bytes that came along with its answer."""
    correlation_id = secrets.token_hex(8)
    peers: list[T] = []
    try:
        engine.start()
        network.sendall(engine.data_to_send())
        on_connected()
        pending: list[Event] = []
        while True:
            if not pending:
                network.settimeout(_left(deadline))
                pending = engine.receive_data(network.recv(_READ))
            while pending:
                match pending.pop(0):
                    case JudgeEvidence() as turn:
                        peers.append(judge_evidence(party, turn, judge))
                        pending += engine.accept()
                    case PresentEvidence() as turn:
                        engine.present(make_evidence(party, turn))
                    case Opened():
                        network.settimeout(None)
                        early = [event.data for event in pending if isinstance(event, InnerData)]
                        return peers[0], b"".join(early)
                    case event:
                        raise NotGenuineError("channel.event", f"an unexpected {type(event)}")
            network.sendall(engine.data_to_send())
    except OSError as error:
        raise UnavailableError(
            "channel.timeout" if isinstance(error, TimeoutError) else "channel.lost",
            "the handshake took too long"
            if isinstance(error, TimeoutError)
            else "the connection broke during the handshake",
            got=str(error),
            remedy="Try again; if it stays so, look at the other side's log.",
        ) from error
    except CasemateError as error:
        with contextlib.suppress(OSError, CasemateError):
            engine.refuse(error.code, correlation_id)
            network.sendall(engine.data_to_send())
        raise


def _pump(
    engine: ChannelEngine, network: socket.socket, listener: socket.socket, early: bytes
) -> None:
    """Carry bytes between the one local connection and the channel, until either ends."""
    with contextlib.suppress(OSError, CasemateError):
        local, _ = listener.accept()
        listener.close()  # one connection: another would wait for an answer that never comes
        with local:
            _require_own_process(local)
            local.sendall(early)
            while True:
                readable, _, _ = select.select([network, local], [], [])
                if local in readable:
                    data = local.recv(_READ)
                    if not data:
                        engine.close()
                        network.sendall(engine.data_to_send())
                        return
                    engine.send(data)
                if network in readable:
                    for event in engine.receive_data(network.recv(_READ)):
                        match event:
                            case InnerData(data):
                                local.sendall(data)
                            case PeerClosed():
                                return
                network.sendall(engine.data_to_send())
    with contextlib.suppress(OSError):
        network.shutdown(socket.SHUT_RDWR)


def _require_own_process(local: socket.socket) -> None:
    credentials = local.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, _, _ = struct.unpack("3i", credentials)
    if pid != os.getpid():
        raise NotGenuineError(
            "channel.local-peer",
            "another process connected to the tunnel",
            expected=f"process {os.getpid()}",
            got=f"process {pid}",
        )


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)
