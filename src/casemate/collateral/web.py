"""Ask a service over HTTP: bounded in size and time, again after what may pass.

What is fetched is signed and looked at by itself (`casemate.verify.collateral`); TLS keeps from
others what was asked for, and isn't what trust rests on. So plain HTTP is taken where somebody
writes it, as a site's own PCCS often has it.

 1. One attempt ends at its time, wherever it stands: a timer shuts the connection, because a server
    that drips a byte a second never runs into a limit on a single read.
 2. An answer has at most 4 MiB, isn't unpacked, and has the length that it says.
 3. A redirect is no answer: who is asked is who was named.
 4. After what may pass (no connection, 429, 500 to 504) the question is asked again, after a pause
    that doubles, has a random part, and is at least what the service asks for; all of it within
    one limit.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from casemate.collateral.wanted import MAX_BODY, host_of
from casemate.errors import UnavailableError, UsageError

_AGAIN = frozenset((429, 500, 502, 503, 504))
_PIECE = 1 << 16
_CONNECT_SECONDS = 5.0
_HEADERS = {"Accept-Encoding": "identity", "Connection": "close", "User-Agent": "casemate"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a service answered.

    Args:
        url: what was asked.
        body: at most 4 MiB.
        headers: names in lower case.
    """

    url: str
    body: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """Asks services.

    Args:
        seconds: for one attempt, from connecting to the last byte.
        patience: for all attempts and the pauses between them, in seconds.
        attempts: at most.
        first_pause: before the second attempt; doubles from then on.
        tls_ca: certificates of the authorities that services' certificates may be from, PEM; the
            system's where none are named.
    """

    seconds: float = 20.0
    patience: float = 45.0
    attempts: int = 4
    first_pause: float = 0.5
    tls_ca: Path | None = None

    def get(self, url: str) -> Answer:
        """GET ``url``.

        Raises:
            UnavailableError: ``collateral.unreachable``, ``collateral.refused``.
            UsageError: ``collateral.address``.
        """
        return self._ask("GET", url, None, {})

    def post(self, url: str, body: bytes, *, content_type: str) -> Answer:
        """POST ``body``; for questions alone, for it may be sent more than once.

        Raises:
            UnavailableError, UsageError: as `get`.
        """
        return self._ask("POST", url, body, {"Content-Type": content_type})

    def _ask(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        end = time.monotonic() + self.patience
        pause, last, tries = self.first_pause, "", 0
        while tries < self.attempts:
            tries += 1
            asked_to_wait = 0.0
            try:
                status, found, data = self._attempt(method, url, body, headers, end)
            except (urllib3.exceptions.HTTPError, OSError) as error:
                last = _why(error)
            else:
                if status == 200:
                    return Answer(url=url, body=data, headers=found)
                last = f"status {status}"
                if status not in _AGAIN:
                    raise _refused(url, status)
                asked_to_wait = _retry_after(found)
            wait = max(pause + random.uniform(0, pause), asked_to_wait)  # noqa: S311  no secret
            if tries == self.attempts or time.monotonic() + wait >= end:
                if asked_to_wait > self.first_pause:
                    last += f", asks to wait {asked_to_wait:.0f} s"
                break
            time.sleep(wait)
            pause *= 2
        raise UnavailableError(
            "collateral.unreachable",
            f"{host_of(url)} doesn't answer",
            field=url,
            expected="an answer with status 200",
            got=f"{last}, after {tries} attempts" if tries > 1 else last,
            remedy="Try again later, name another service, or use an offline bundle.",
        )

    def _attempt(
        self, method: str, url: str, body: bytes | None, headers: dict[str, str], end: float
    ) -> tuple[int, dict[str, str], bytes]:
        seconds = min(self.seconds, max(end - time.monotonic(), 0.1))
        with _ended_after(seconds) as watch, self._pool(url) as pool:
            try:
                response = pool.request(
                    method, url, body=body, headers={**_HEADERS, **headers}, redirect=False,
                    retries=False, preload_content=False, decode_content=False, timeout=seconds,
                )  # fmt: skip
                try:
                    data = bytearray()
                    # Older versions' stream() takes the line before a chunk however long it is.
                    while piece := response.read(_PIECE, decode_content=False):
                        data += piece
                        if len(data) > MAX_BODY:
                            raise OSError(f"more than {MAX_BODY} bytes")
                finally:
                    response.close()
            except (urllib3.exceptions.HTTPError, OSError) as error:
                if watch.ended:
                    raise OSError(f"not done after {seconds:.1f} s") from error
                raise
            if watch.ended:  # a body without a length ends where the connection does
                raise OSError(f"not done after {seconds:.1f} s")
        found = {name.lower(): value for name, value in response.headers.items()}
        return response.status, found, bytes(data)

    def _pool(self, url: str) -> urllib3.PoolManager:
        """For one attempt: questions are few, and a connection of its own can be ended in time."""
        try:
            parsed = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError:
            parsed = urllib3.util.Url()
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError(
                "collateral.address", f"{url[:120]} is no address of a service", field="url",
                expected="https://… or http://…", got=url[:120],
            )  # fmt: skip
        cafile = str(self.tls_ca) if self.tls_ca is not None else None
        try:
            context = ssl.create_default_context(cafile=cafile)
        except OSError as error:
            raise UsageError(
                "collateral.tls-ca", f"{cafile} holds no certificates", field="--tls-ca",
                expected="certificates in PEM", got=str(error)[:120],
            ) from error  # fmt: skip
        proxy = None if proxy_bypass(parsed.host) else getproxies().get(parsed.scheme)
        pool = (
            urllib3.ProxyManager(proxy, ssl_context=context)
            if proxy and not _is_loopback(parsed.host)
            else urllib3.PoolManager(ssl_context=context)
        )
        pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return pool


class _Watch:
    """The sockets of one attempt, shut when its time is over.

    Args:
        end: when that is, by the monotonic clock.
    """

    def __init__(self, end: float) -> None:
        self.end_time = end
        self.ended = False
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()

    def add(self, connected: socket.socket) -> None:
        # TLS takes the descriptor away from its socket; a copy reaches the same connection.
        copy = socket.socket(fileno=os.dup(connected.fileno()))
        with self._lock:
            self._sockets.append(copy)
            if self.ended:
                _shut(copy)

    def end(self) -> None:
        with self._lock:
            self.ended = True
            for each in self._sockets:
                _shut(each)

    def close(self) -> None:
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()


_watch: ContextVar[_Watch | None] = ContextVar("_watch", default=None)


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[_Watch]:
    watch = _Watch(time.monotonic() + seconds)
    timer = threading.Timer(seconds, watch.end)
    timer.daemon = True
    timer.start()
    token = _watch.set(watch)
    try:
        yield watch
    finally:
        _watch.reset(token)
        timer.cancel()
        watch.close()


def _connected(host: str, port: int) -> socket.socket:
    """Connect, within the attempt's time whatever the number of addresses.

    Does not check: how long the machine's resolver takes.
    """
    watch = _watch.get()
    assert watch is not None, "an attempt is under way"
    last = OSError("no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), port, type=socket.SOCK_STREAM
    ):
        left = watch.end_time - time.monotonic()
        if left <= 0:
            break
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(min(_CONNECT_SECONDS, left))
            connection.connect(address)
        except OSError as error:
            connection.close()
            last = error
        else:
            watch.add(connection)
            return connection
    raise last


class _Plain(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self.host, self.port)


class _Tls(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return _connected(self.host, self.port)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _Tls


def _shut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "[::1]"


def _refused(url: str, status: int) -> UnavailableError:
    return UnavailableError(
        "collateral.refused",
        f"{host_of(url)} doesn't have what it was asked for",
        field=url,
        expected="status 200",
        got=f"status {status}",
        remedy="Is the platform one that the service knows, and the address right?",
    )


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds. Source: RFC 9110, section 10.2.3."""
    text = headers.get("retry-after", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        return 0.0
    return max((moment - datetime.datetime.now(datetime.UTC)).total_seconds(), 0.0)


def _why(error: Exception) -> str:
    text = str(error).rpartition(": ")[2] if isinstance(error, urllib3.exceptions.HTTPError) else ""
    return (text or str(error) or type(error).__name__)[:160]
