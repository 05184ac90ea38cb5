"""A server on loopback whose answers can be wrong in every way that HTTP allows."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

_HUGE_PIECE = bytes(1 << 16)
_HUGE_PIECES = 1 << 12  # 256 MiB: nobody should read that far


class Fault(Enum):
    """What is wrong with answers."""

    OUTAGE = auto()
    """Status 503."""
    BUSY = auto()
    """Status 429, and a wish to be asked again in an hour."""
    HANG = auto()
    """Nothing at all."""
    DRIP_HEADERS = auto()
    """A byte of the headers every now and then, without end."""
    DRIP_BODY = auto()
    """A byte of the body every now and then."""
    CUT = auto()
    """A body that is shorter than the length that was said."""
    SHORT_LENGTH = auto()
    """A length that is shorter than the body."""
    HUGE = auto()
    """A body of 256 MiB, without a length."""
    ENDLESS_CHUNK_LINE = auto()
    """A body in chunks, of which the first says its length in 256 MiB of digits."""
    REDIRECT = auto()
    """To another address, which would have the right answer."""
    GARBAGE = auto()
    """Bytes that mean nothing."""
    NOT_HTTP = auto()
    """Another protocol."""
    EMPTY = auto()
    """No body."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer.

    Args:
        body: what it says.
        headers: beside the usual ones.
        status: of HTTP.
        chunked: whether it comes in chunks, without a length.
    """

    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    chunked: bool = False


class FakeService:
    """A service; give `answer` in a class of its own.

    Attributes:
        fault: what is wrong with every answer, or None.
        fault_once: what is wrong with the next answers, one each.
        pause: between two bytes that drip, in seconds.
        delay: before every answer, in seconds.
        seen: each question: method, path and query.

    Args:
        tls: whether it is served over TLS, and with which certificate.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.fault: Fault | None = None
        self.fault_once: list[Fault] = []
        self.pause = 0.05
        self.delay = 0.0
        self.seen: list[str] = []
        self._stopped = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.serve(self, b"")

            def do_POST(self) -> None:
                service.serve(self, self.rfile.read(int(self.headers["Content-Length"])))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._scheme = "http" if tls is None else "https"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """The right answer."""
        del method, path, query, body
        return Reply(status=404)

    @property
    def url(self) -> str:
        """The service's address."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answer one question, rightly or not."""
        parts = urlsplit(handler.path)
        self.seen.append(f"{handler.command} {handler.path}")
        fault = self.fault_once.pop(0) if self.fault_once else self.fault
        self._stopped.wait(self.delay)
        right = self.answer(handler.command, parts.path, parts.query, body)
        with contextlib.suppress(OSError):  # whoever asked may have gone
            self._send(handler, right, fault)

    def _send(self, handler: BaseHTTPRequestHandler, right: Reply, fault: Fault | None) -> None:
        match fault:
            case Fault.OUTAGE:
                _whole(handler, Reply(status=503))
            case Fault.BUSY:
                _whole(handler, Reply(status=429, headers={"Retry-After": "3600"}))
            case Fault.REDIRECT if "again" not in handler.path:
                sign = "&" if "?" in handler.path else "?"
                target = {"Location": f"{self.url}{handler.path}{sign}again"}
                _whole(handler, Reply(status=302, headers=target))
            case Fault.GARBAGE:
                _whole(handler, Reply(body=bytes(range(256)), headers=right.headers))
            case Fault.EMPTY:
                _whole(handler, Reply(headers=right.headers))
            case Fault.HANG:
                self._stopped.wait(60)
            case Fault.NOT_HTTP:
                handler.wfile.write(b"220 mail.example ESMTP\r\n")
            case Fault.CUT | Fault.SHORT_LENGTH:
                more = 100 if fault is Fault.CUT else -100
                _whole(handler, right, length=len(right.body) + more)
                handler.close_connection = True
            case Fault.HUGE:
                _head(handler, right)
                for _ in range(_HUGE_PIECES):
                    handler.wfile.write(_HUGE_PIECE)
            case Fault.ENDLESS_CHUNK_LINE:
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(_HUGE_PIECES):
                    handler.wfile.write(b"0" * len(_HUGE_PIECE))
            case Fault.DRIP_BODY:
                _head(handler, right, length=len(right.body))
                self._drip(handler, iter(right.body))
            case Fault.DRIP_HEADERS:
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
                self._drip(handler, iter(lambda: ord("x"), 0))
            case _ if right.chunked:
                handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for start in range(0, len(right.body), 100):
                    piece = right.body[start : start + 100]
                    handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                handler.wfile.write(b"0\r\n\r\n")
                handler.close_connection = True
            case _:
                _whole(handler, right)

    def _drip(self, handler: BaseHTTPRequestHandler, data: Iterator[int]) -> None:
        end = time.monotonic() + 60
        for byte in data:
            handler.wfile.write(bytes((byte,)))
            if self._stopped.wait(self.pause) or time.monotonic() > end:
                return


def _head(
    handler: BaseHTTPRequestHandler, reply: Reply, *, length: int | None = None
) -> None:  # fmt: skip
    handler.send_response(reply.status)
    for name, value in reply.headers.items():
        handler.send_header(name, value)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()


def _whole(
    handler: BaseHTTPRequestHandler, reply: Reply, *, length: int | None = None
) -> None:  # fmt: skip
    _head(handler, reply, length=len(reply.body) if length is None else length)
    handler.wfile.write(reply.body)
