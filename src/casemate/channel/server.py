"""The server's end: attested connections in, plain connections to an inner server out.

The inner server (plain ``grpcio``) listens on a unix socket in a private directory. Each attested
connection is joined to it from a socket that is bound to a fresh random path first, so that the
inner server's handler finds the peer's state by the path it sees; whoever connects from elsewhere
has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import secrets
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from OpenSSL import SSL

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
from casemate.channel.party import ChannelParty, Limits, RefusedByPeerError
from casemate.channel.tls import TlsKey, make_context, make_tls_key
from casemate.errors import CasemateError, InternalError, UnavailableError, UsageError
from casemate.protocol import VerifiedPeer

T = TypeVar("T")

_READ = 64 * 1024
_BACKLOG = 256


class ChannelEventKind(StrEnum):
    """What happened to a connection."""

    OPENED = "opened"
    REFUSED = "refused"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEvent:
    """Something that an audit trail should know.

    Args:
        kind: what happened.
        correlation_id: names the connection, to the peer too.
        peer: its address, as the network shows it.
        error: why it was refused, with every detail; the peer gets the code alone. Or why it was
            closed, if not by either side.
    """

    kind: ChannelEventKind
    correlation_id: str
    peer: str
    error: CasemateError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState(Generic[T]):
    """An attested connection, as the inner server's handler finds it."""

    correlation_id: str
    address: str
    state: T


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared(Generic[T]):
    """What a server and its connections have in common."""

    party: ChannelParty
    judge: Callable[[VerifiedPeer], T]
    inner: Path
    on_event: Callable[[ChannelEvent], None]
    limits: Limits
    key: TlsKey
    context: SSL.Context
    workers: ThreadPoolExecutor
    peers: dict[str, PeerState[T]]
    channels: dict[str, Callable[[], None]]
    """What ends each open channel, the longest open first."""


class AttestedServer(Generic[T]):
    """Accept attested connections and join each to the inner server.

    Args:
        party: our side.
        judge: takes a verified peer; returns what the handler should know, or raises to refuse.
        inner: the inner server's unix socket, in a directory that only this user can enter.
        limits: bounds on what peers can cost.
        on_event: told of every connection's fate; must not block for long.
    """

    def __init__(
        self,
        *,
        party: ChannelParty,
        judge: Callable[[VerifiedPeer], T],
        inner: Path,
        on_event: Callable[[ChannelEvent], None],
        limits: Limits | None = None,
    ) -> None:
        limits = limits or Limits()
        key = make_tls_key()
        self._shared = _Shared(
            party=party,
            judge=judge,
            inner=inner,
            on_event=on_event,
            limits=limits,
            key=key,
            context=make_context(key),
            workers=ThreadPoolExecutor(limits.max_verifications, "casemate-verify"),
            peers={},
            channels={},
        )
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen, and return the address that was taken (``port`` 0 picks a free one).

        Raises:
            UsageError: ``channel.listen`` where the address can't be had.
        """
        try:
            self._listener = await asyncio.start_server(
                self._accepted, host, port, backlog=_BACKLOG
            )
        except OSError as error:
            raise UsageError(
                "channel.listen",
                f"can't listen on {host}:{port}",
                field="listen",
                expected="a free address of this machine",
                got=error.strerror or str(error),
                remedy="Choose another port, or end the program that holds it.",
            ) from error
        address = self._listener.sockets[0].getsockname()
        return address[0], address[1]

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._listener is not None:
            self._listener.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        self._shared.workers.shutdown(wait=False, cancel_futures=True)

    def peer_state(self, inner_peer: str) -> PeerState[T] | None:
        """Who is behind an inner connection.

        Args:
            inner_peer: as ``grpc.ServicerContext.peer()`` gives it: ``unix:PATH``.

        Returns:
            None where the connection didn't come through this server: refuse it.
        """
        return self._shared.peers.get(inner_peer.removeprefix("unix:"))

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._connections) >= self._shared.limits.max_connections:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            await _Connection(self._shared, reader, writer).run()
        except asyncio.CancelledError:
            pass  # by `close`; asyncio of Python 3.11 would write a traceback of it to stderr
        finally:
            self._connections.discard(task)
            writer.transport.abort()


class _Connection(Generic[T]):
    """One accepted connection, from the first byte to the last."""

    def __init__(
        self,
        shared: _Shared[T],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._shared = shared
        self._reader = reader
        self._writer = writer
        self._engine = ChannelEngine(Role.SERVER, shared.key, shared.context)
        self._id = secrets.token_hex(8)
        peer = writer.get_extra_info("peername")
        self._address = f"{peer[0]}:{peer[1]}" if peer else "unknown"
        self._state: T | None = None
        self._crowded_out: CasemateError | None = None

    async def run(self) -> None:
        limits = self._shared.limits
        try:
            async with asyncio.timeout(limits.handshake_seconds):
                await self._handshake()
        except TimeoutError:
            await self._refuse(
                UnavailableError(
                    "channel.timeout",
                    "the handshake took too long",
                    expected=f"at most {limits.handshake_seconds:g} s",
                )
            )
            return
        except OSError as error:
            await self._refuse(
                UnavailableError("channel.lost", "the connection broke", got=str(error))
            )
            return
        except CasemateError as error:
            await self._refuse(error)
            return
        self._tell(ChannelEventKind.OPENED)
        try:
            async with asyncio.timeout(limits.max_age_seconds):
                with self._one_of_the_open():
                    await self._join()
        except (TimeoutError, OSError, CasemateError):
            pass  # an open channel may end at any time; both sides simply see its end
        finally:
            await self._end()
            self._tell(ChannelEventKind.CLOSED, self._crowded_out)

    async def _handshake(self) -> None:
        opened = False
        while not opened:
            for event in self._engine.receive_data(await self._reader.read(_READ)):
                opened |= await self._step(event)
            await self._flush()

    async def _step(self, event: Event) -> bool:
        """Carry out one event of the handshake; True once the channel is open."""
        shared, loop = self._shared, asyncio.get_running_loop()
        match event:
            case PresentEvidence():
                presented = await loop.run_in_executor(
                    shared.workers, make_evidence, shared.party, event
                )
                self._engine.present(presented)
            case JudgeEvidence():
                self._state = await loop.run_in_executor(
                    shared.workers, judge_evidence, shared.party, event, shared.judge
                )
                return any(isinstance(e, Opened) for e in self._engine.accept())
            case _:
                raise InternalError("channel.event", f"unexpected {event}")
        return False

    @contextlib.contextmanager
    def _one_of_the_open(self) -> Iterator[None]:
        """Have a place among the open channels; where none is free the longest open gives way.

        A peer that was let in may stay as long as it likes, and must not keep others out by it. Who
        wasn't yet can't make anybody give way.
        """
        channels = self._shared.channels
        if len(channels) >= self._shared.limits.max_open:
            channels.pop(next(iter(channels)))()
        task = asyncio.current_task()
        assert task is not None
        channels[self._id] = functools.partial(self._give_way, task)
        try:
            yield
        finally:
            channels.pop(self._id, None)

    def _give_way(self, task: asyncio.Task[None]) -> None:
        self._crowded_out = UnavailableError(
            "channel.crowded",
            "the channel was the longest open one of too many",
            expected=f"at most {self._shared.limits.max_open} open channels",
        )
        self._writer.transport.abort()
        task.cancel()

    async def _join(self) -> None:
        """Join the open channel to the inner server until either side ends."""
        path = self._shared.inner.parent / f"peer-{secrets.token_hex(16)}"
        inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        inner.bind(str(path))
        assert self._state is not None
        self._shared.peers[str(path)] = PeerState(
            correlation_id=self._id, address=self._address, state=self._state
        )
        try:
            await asyncio.get_running_loop().sock_connect(inner, str(self._shared.inner))
            inner_reader, inner_writer = await asyncio.open_unix_connection(sock=inner)
            try:
                pumps = [
                    asyncio.create_task(self._inward(inner_writer)),
                    asyncio.create_task(self._outward(inner_reader)),
                ]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)
            finally:
                inner_writer.close()  # never the socket: its number may be reused under asyncio
        finally:
            del self._shared.peers[str(path)]
            path.unlink(missing_ok=True)

    async def _inward(self, inner: asyncio.StreamWriter) -> None:
        while True:
            for event in self._engine.receive_data(await self._reader.read(_READ)):
                match event:
                    case InnerData(data):
                        inner.write(data)
                    case PeerClosed():
                        return
            await inner.drain()
            await self._flush()

    async def _outward(self, inner: asyncio.StreamReader) -> None:
        while data := await inner.read(_READ):
            self._engine.send(data)
            await self._flush()

    async def _flush(self) -> None:
        if data := self._engine.data_to_send():
            self._writer.write(data)
            await self._writer.drain()

    async def _refuse(self, error: CasemateError) -> None:
        # Told first: whoever hears the id finds it in the trail, even if we are stopped now.
        self._tell(ChannelEventKind.REFUSED, error)
        if not isinstance(error, RefusedByPeerError):
            self._engine.refuse(error.code, self._id)
        await self._end()

    async def _end(self) -> None:
        """Say goodbye if the peer still listens; don't wait for it."""
        with contextlib.suppress(OSError, CasemateError, TimeoutError):
            async with asyncio.timeout(1.0):
                self._engine.close()
                await self._flush()
                self._writer.close()
                await self._writer.wait_closed()

    def _tell(self, kind: ChannelEventKind, error: CasemateError | None = None) -> None:
        self._shared.on_event(
            ChannelEvent(kind=kind, correlation_id=self._id, peer=self._address, error=error)
        )
