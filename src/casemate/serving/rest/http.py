"""HTTP/1.1 over asyncio: connections, limits, timeouts. The protocol itself is h11's.

Nothing here knows what a request is about. Every wait has an end and every buffer a bound: who
sends slowly, reads slowly, or holds connections open costs a little memory and no thread.
"""

from __future__ import annotations

import asyncio
import asyncio.sslproto
import contextlib
import itertools
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType
from typing import Final, TypeAlias

import h11

from casemate.errors import MalformedError
from casemate.serving.rest.coding import Unpacker

_HEADER_BYTES: Final = 64 << 10
_READ_BYTES: Final = 256 << 10
# A body in chunks of a few bytes costs a hundred times what it brings: no client means that.
_MANY_CHUNKS: Final = 4096
_MIN_MEAN_CHUNK_BYTES: Final = 32
_EVENTS_A_TURN: Final = 64
_IDLE_SECONDS: Final = 120.0
_LINGER_SECONDS: Final = 0.5
_ACCEPT_RETRY_SECONDS: Final = 0.1
_BACKLOG: Final = 1024
_TLS_BUFFER_BYTES: Final = 64 << 10
_HANDSHAKE_SECONDS: Final = 10.0
_LOG: Final = logging.getLogger(__name__)
_REASONS: Final = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Content Too Large",
    499: b"Client Closed Request",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request that has arrived whole.

    Args:
        method: in capitals.
        path: as it was sent, without what follows a question mark.
        headers: by lower-case name; the last where one came twice.
        body: the content.
    """

    method: str
    path: str
    headers: Mapping[bytes, bytes]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What is answered.

    Args:
        status: HTTP's.
        body: the content.
        content_type: of ``body``.
        headers: further ones.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Handle: TypeAlias = Callable[[Request], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a client may take.

    Args:
        body_bytes: of one request.
        held_bytes: of all requests that are arriving or worked on, and of answers that are read.
        connections: at once.
        seconds: for a request to arrive, to be answered, and for the answer to be read; each.
        threads: requests that are worked on at the same time.
    """

    body_bytes: int
    held_bytes: int
    connections: int
    seconds: float
    threads: int


class _RefusedError(Exception):
    """A request that ends here, with this status; the connection ends with it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(slots=True, eq=False)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection
    held: int = 0
    busy: bool = False
    headers: Mapping[bytes, bytes] = field(default_factory=lambda: MappingProxyType({}))


class HttpServer:
    """An HTTP server on a thread of its own.

    Args:
        handle: answers a request, on a thread of a pool. It doesn't raise.
        limits: what a client may take.
    """

    def __init__(self, handle: Handle, limits: Limits) -> None:
        self._handle = handle
        self._limits = limits
        self._held = 0
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="rest")
        self._loop = asyncio.new_event_loop()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._opening: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._closing = False
        self._thread = threading.Thread(target=self._loop.run_forever, name="rest", daemon=True)
        self._thread.start()

    def listen(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Answer on a socket that listens."""
        # asyncio takes this much for each TLS connection as soon as it is there, idle or not.
        asyncio.sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES

        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._listener = listener

        async def listen() -> None:
            self._accepting = self._loop.create_task(self._accept(listener, tls))

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result()

    def stop_listening(self) -> None:
        """Take no more connections and no more requests; those that have arrived are answered."""

        async def stop() -> None:
            self._closing = True
            if self._accepting is not None and self._listener is not None:
                self._accepting.cancel()
                await asyncio.wait([self._accepting])
                self._listener.close()
            for opening in tuple(self._opening):
                opening.cancel()
            for connection in tuple(self._connections):
                if not connection.busy:
                    connection.writer.transport.abort()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()

    def close(self) -> None:
        """End everything."""

        async def end() -> None:
            for connection in tuple(self._connections):
                connection.writer.transport.abort()
            await asyncio.sleep(0)

        self.stop_listening()
        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._loop.close()

    async def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accept connections; asyncio's own server counts them only once TLS is agreed on."""
        while True:
            try:
                client, _ = await self._loop.sock_accept(listener)
            except OSError:  # the client is gone, or no file is left: nothing that a log needs
                await asyncio.sleep(_ACCEPT_RETRY_SECONDS)
                continue
            if not self._room():
                client.close()
                continue
            opening = self._loop.create_task(self._open(client, tls))
            self._opening[opening] = None
            opening.add_done_callback(lambda done: self._opening.pop(done, None))
            await asyncio.sleep(0)  # where many wait, accepting goes on without a pause

    async def _open(self, client: socket.socket, tls: ssl.SSLContext | None) -> None:
        opening = asyncio.current_task()
        assert opening is not None
        reader = asyncio.StreamReader(_READ_BYTES, self._loop)
        protocol = asyncio.StreamReaderProtocol(
            reader, lambda reader, writer: self._serve(reader, writer, opening), self._loop
        )
        try:
            await self._loop.connect_accepted_socket(
                lambda: protocol,
                client,
                ssl=tls,
                ssl_handshake_timeout=_HANDSHAKE_SECONDS if tls else None,
            )
        except (OSError, ssl.SSLError):  # no TLS, or too slow
            client.close()
        except asyncio.CancelledError:  # it made room for others
            client.close()
            raise

    async def _serve(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        opening: asyncio.Task[None],
    ) -> None:
        connection = _Connection(
            reader, writer, h11.Connection(h11.SERVER, max_incomplete_event_size=_HEADER_BYTES)
        )
        if self._closing or opening not in self._opening:  # the latter has made room for others
            writer.transport.abort()
            return
        # From the one to the other without an await: it counts once at every moment.
        del self._opening[opening]
        self._connections[connection] = None
        try:
            # One request after another, until one side has enough.
            while await self._one(connection):
                pass
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    writer.close()
                    await writer.wait_closed()
        except (OSError, ssl.SSLError, TimeoutError, h11.LocalProtocolError):
            pass  # the client is gone, or too slow to be told anything
        except Exception as error:  # noqa: BLE001 (the connection's edge)
            _LOG.error("a connection failed inside the server: %s", type(error).__name__)
        finally:
            self._release(connection)
            self._connections.pop(connection, None)
            writer.transport.abort()

    def _room(self) -> bool:
        """Whether there's room for a connection; the oldest idle one makes it where need be."""
        if len(self._connections) + len(self._opening) < self._limits.connections:
            return True
        if len(self._opening) > len(self._connections):
            opening = next(iter(self._opening))
            del self._opening[opening]
            opening.cancel()
            return True
        idle = next((each for each in self._connections if not each.busy), None)
        if idle is None:
            return False
        del self._connections[idle]
        idle.writer.transport.abort()
        return True

    async def _one(self, connection: _Connection) -> bool:
        """Answer one request; whether another may follow."""
        try:
            request = await self._read(connection)
        except _RefusedError as refusal:
            await self._refuse(connection, refusal)
            return False
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            await self._refuse(connection, _RefusedError(status, "not an HTTP/1.1 request"))
            return False
        if request is None:
            return False
        try:
            async with asyncio.timeout(self._limits.seconds):
                response = await self._loop.run_in_executor(self._pool, self._handle, request)
        except TimeoutError:
            await self._refuse(connection, _RefusedError(504, "the answer took too long"))
            return False
        head = request.method == "HEAD"
        # The client alone decides how long it reads; what it sent isn't kept for that.
        del request
        self._release(connection)
        if self._held and self._held + len(response.body) > self._limits.held_bytes:
            await self._refuse(connection, _RefusedError(429, "too many answers aren't read"))
            return False
        self._held += len(response.body)
        connection.held += len(response.body)
        await self._send(connection, response, head=head)
        self._release(connection)
        connection.busy = False
        if connection.protocol.our_state is h11.MUST_CLOSE or self._closing:
            return False
        connection.protocol.start_next_cycle()
        return True

    async def _read(self, connection: _Connection) -> Request | None:
        """The next request; None where the client has closed the connection instead."""
        head = await self._head(connection)
        if head is None:
            return None
        connection.headers = MappingProxyType(dict(head.headers))
        length = connection.headers.get(b"content-length")
        if length is not None and b"transfer-encoding" in connection.headers:
            # A proxy on the way may have heeded the other one (RFC 9112, section 6.1).
            raise _RefusedError(400, "both a Content-Length and a Transfer-Encoding")
        if length is not None and int(length) > self._limits.body_bytes:
            raise _RefusedError(413, f"more than {self._limits.body_bytes} bytes")
        try:
            async with asyncio.timeout(self._limits.seconds):
                if connection.protocol.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(
                        status_code=100, headers=[], reason=b"Continue"
                    )
                    connection.writer.write(connection.protocol.send(go_on) or b"")
                body = await self._body(connection)
        except TimeoutError:
            raise _RefusedError(408, "the request took too long to arrive") from None
        except MalformedError as error:
            raise _RefusedError(400, f"{error} [{error.code}]") from error
        return Request(
            method=head.method.decode("ascii"),
            path=_path(head.target.decode("ascii")),
            headers=connection.headers,
            body=body,
        )

    async def _head(self, connection: _Connection) -> h11.Request | None:
        """The head of the next request. Until it begins a connection may be idle for a while."""
        protocol = connection.protocol
        try:
            async with asyncio.timeout(_IDLE_SECONDS) as waiting:
                while (event := protocol.next_event()) is h11.NEED_DATA:
                    data = await connection.reader.read(_READ_BYTES)
                    if data and not connection.busy:
                        connection.busy = True
                        waiting.reschedule(self._loop.time() + self._limits.seconds)
                    protocol.receive_data(data)
        except TimeoutError:
            if connection.busy:
                raise _RefusedError(408, "the request took too long to arrive") from None
            return None
        connection.busy = True
        return event if isinstance(event, h11.Request) else None

    async def _body(self, connection: _Connection) -> bytes:
        protocol, parts, size, received = connection.protocol, [], 0, 0
        unpacker = _unpacker(connection.headers)
        chunked = b"transfer-encoding" in connection.headers
        for turn in itertools.count(1):
            if not turn % _EVENTS_A_TURN:  # one read may bring thousands of chunks
                await asyncio.sleep(0)
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                data = await connection.reader.read(_READ_BYTES)
                protocol.receive_data(data)
            elif isinstance(event, h11.Data):
                data = bytes(event.data)
                received += len(data)
                if chunked and turn > _MANY_CHUNKS and received < turn * _MIN_MEAN_CHUNK_BYTES:
                    raise _RefusedError(400, "chunks of a few bytes each")
                for piece in unpacker.pieces(data) if unpacker else (data,):
                    size += len(piece)
                    if size > self._limits.body_bytes:
                        raise _RefusedError(413, f"more than {self._limits.body_bytes} bytes")
                    self._hold(connection, len(piece))
                    parts.append(piece)
                    if unpacker:  # others get their turn between pieces
                        await asyncio.sleep(0)
            elif isinstance(event, h11.EndOfMessage):
                if unpacker:
                    unpacker.end()
                return b"".join(parts)
            else:
                break
        raise ConnectionError("the client went away")

    async def _send(self, connection: _Connection, response: Response, *, head: bool) -> None:
        protocol, writer = connection.protocol, connection.writer
        headers = [
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(response.body))),
            *response.headers,
        ]
        if self._closing:
            headers.append(("Connection", "close"))
        start = h11.Response(
            status_code=response.status, headers=headers, reason=_REASONS.get(response.status, b"")
        )
        parts = [protocol.send(start) or b""]
        if not head:
            parts.append(protocol.send(h11.Data(data=response.body)) or b"")
        parts.append(protocol.send(h11.EndOfMessage()) or b"")
        async with asyncio.timeout(self._limits.seconds):
            # What isn't read stays in the transport; past its high-water mark this waits.
            writer.transport.set_write_buffer_limits(high=0)
            writer.writelines(parts)
            await writer.drain()

    async def _refuse(self, connection: _Connection, refusal: _RefusedError) -> None:
        """Answer what the handler never sees, if the connection still allows an answer."""
        if connection.protocol.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = b'{"error": "%s"}' % str(refusal).encode()
        headers = (("Connection", "close"),)
        response = Response(status=refusal.status, body=body, headers=headers)
        await self._send(connection, response, head=False)
        # An end with something unread would take the answer away from the client again.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while await connection.reader.read(_READ_BYTES):
                    pass

    def _hold(self, connection: _Connection, size: int) -> None:
        if self._held + size > self._limits.held_bytes:
            raise _RefusedError(429, "the server holds as many bytes of requests as it can")
        self._held += size
        connection.held += size

    def _release(self, connection: _Connection) -> None:
        self._held -= connection.held
        connection.held = 0


def _unpacker(headers: Mapping[bytes, bytes]) -> Unpacker | None:
    """What unpacks the body; None where it comes as it is."""
    coding = headers.get(b"content-encoding", b"identity")
    if coding == b"identity":
        return None
    try:
        return Unpacker(coding)
    except KeyError:
        message = "a Content-Encoding other than gzip, deflate and identity"
        raise _RefusedError(415, message) from None


def _path(target: str) -> str:
    """The path that a request's target names, which may name the server before it."""
    path = target.partition("?")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path
