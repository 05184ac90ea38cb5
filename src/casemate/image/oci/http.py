"""HTTP to a registry: TLS, tokens, redirects and second attempts, all within bounds.

What is fetched has a digest, so TLS isn't what its integrity rests on; it keeps credentials, and
what is asked for, from others. Time-outs of sockets bound the wait for the next byte alone, so a
byte now and then would keep one for ever: an answer's head, a document and a blob's pace have
bounds of their own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, SSLError
from urllib3.response import HTTPResponse

from casemate.encoding import decode_json
from casemate.errors import MalformedError, UnavailableError, UsageError
from casemate.image.oci.auth import Credentials, parse_challenge
from casemate.image.oci.store import MAX_DOCUMENT

_MAX_TOKEN = 1 << 20
_MAX_REDIRECTS = 5
_HEAD_SECONDS = 60.0
_DOCUMENT_SECONDS = 60.0
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_PIECE = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
_PASSING = (408, 429, 500, 502, 503, 504)
Response = urllib3.BaseHTTPResponse
Body = bytes | Iterator[bytes] | None


class PassingError(Exception):
    """What may pass: no connection, a cut, a busy registry. Never leaves this package.

    Args:
        why: in words.
    """


@contextmanager
def _in_time(sock: socket.socket | None) -> Iterator[None]:
    """Within, the head of an answer comes in time, or the connection is cut.

    Raises:
        TimeoutError: it was cut: half a head is taken for one, and what follows for nothing.
    """
    late = threading.Event()
    timer = threading.Timer(_HEAD_SECONDS, _cut, [sock, late])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"no answer within {_HEAD_SECONDS:.0f} s")


def _cut(sock: socket.socket | None, late: threading.Event) -> None:
    late.set()
    if sock is not None:
        with contextlib.suppress(OSError):
            # Of TLS the connection below: its own way would take the state from who reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _PlainConnection(HTTPConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        with _in_time(self.sock):
            return super().getresponse()


class _TlsConnection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 itself
        with _in_time(self.sock):
            return super().getresponse()


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


@dataclass(slots=True)
class RegistryClient:
    """Speaks to one registry.

    Args:
        host: of the registry, perhaps with a port.
        credentials: who asks; None for nobody in particular.
        plain_http: do without TLS, and without credentials, though it isn't this machine.
        ca_file: certificates of the authorities that the registry's may be from, PEM; the
            system's where none is named.
    """

    host: str
    credentials: Credentials | None = None
    plain_http: bool = False
    ca_file: Path | None = None
    _tokens: dict[str, str] = field(default_factory=dict, repr=False)
    _pool: urllib3.PoolManager = field(init=False)

    def __post_init__(self) -> None:
        ca = str(self.ca_file) if self.ca_file is not None else None
        self._pool = urllib3.PoolManager(
            retries=False, timeout=_TIMEOUT, cert_reqs="CERT_REQUIRED", ca_certs=ca
        )
        self._pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        if self.plain_http and not is_loopback(self.host):
            self.credentials = None

    @property
    def base(self) -> str:
        """The registry's address."""
        # Who names authorities means TLS, also on this machine.
        plain = self.plain_http or (is_loopback(self.host) and self.ca_file is None)
        return f"{'http' if plain else 'https'}://{self.host}"

    def url(self, location: str) -> str:
        """An address that the registry gave, absolute.

        Raises:
            MalformedError: ``registry.malformed``; UsageError: ``registry.address``.
        """
        url = urljoin(f"{self.base}/", location)
        self._check(url)
        return url

    @contextmanager
    def ask(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        follow: bool = False,
    ) -> Iterator[Response]:
        """Ask once; authenticate if the registry wants it; follow redirects if told to.

        Args:
            method: of HTTP.
            url: absolute.
            scope: what a token must be for.
            headers: further ones.
            body: to send; one that is an iterator is sent once.
            follow: whether a redirect is followed, without credentials to another host.

        Yields:
            The answer, unread, whatever its status.

        Raises:
            PassingError: no answer, or a status that passes.
            UsageError, MalformedError, UnavailableError: ``registry.*``.
        """
        sent = {"User-Agent": "casemate", "Accept-Encoding": "identity", **(headers or {})}
        response = self._once(method, url, {**sent, **self._authorization(url, scope)}, body)
        try:
            if response.status == 401 and not isinstance(body, Iterator):
                response = self._again(method, url, sent, body, scope, response)
            hops = 0
            while follow and response.status in _REDIRECTS:
                hops += 1
                target = urljoin(url, response.headers.get("Location", ""))
                if hops > _MAX_REDIRECTS:
                    raise malformed("redirects", f"at most {_MAX_REDIRECTS}", "more")
                self._check(target)
                release(response)
                own = self._authorization(target, scope)  # none, if it's another host
                url = target
                response = self._once(method, url, {**sent, **own}, body)
            if response.status in _PASSING:
                raise PassingError(f"status {response.status}")
            yield response
        finally:
            release(response)

    def document(
        self, url: str, *, scope: str, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, Mapping[str, str]]:
        """A small document, whole, and the answer's headers.

        Raises:
            PassingError; UsageError, MalformedError, UnavailableError: ``registry.*``.
        """
        with self.ask("GET", url, scope=scope, headers=headers, follow=True) as response:
            expect(response, 200)
            return _whole(response, MAX_DOCUMENT), response.headers

    def _again(
        self, method: str, url: str, sent: dict[str, str], body: Body, scope: str, refused: Response
    ) -> Response:
        challenge = parse_challenge(refused.headers.get("WWW-Authenticate", ""))
        release(refused)
        if challenge.scheme == "basic":
            if self.credentials is None:
                raise _denied("credentials", "none")
            self._tokens[scope] = self.credentials.basic()
        else:
            self._tokens[scope] = self._token(challenge.realm, challenge.service, scope)
        return self._once(method, url, {**sent, **self._authorization(url, scope)}, body)

    def _token(self, realm: str, service: str, scope: str) -> str:
        self._check(realm)
        query = {"scope": scope} | ({"service": service} if service else {})
        url = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(query)}"
        headers = {"User-Agent": "casemate"}
        if self.credentials is not None:
            headers["Authorization"] = self.credentials.basic()
        response = self._once("GET", url, headers, None)
        try:
            expect(response, 200)
            value = decode_json(_whole(response, _MAX_TOKEN), what="token", max_size=_MAX_TOKEN)
        finally:
            release(response)
        found = value if isinstance(value, dict) else {}
        token = found.get("token") or found.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise malformed("token", "a token in the answer of the token service", "none")
        return f"Bearer {token}"

    def _authorization(self, url: str, scope: str) -> dict[str, str]:
        token = self._tokens.get(scope)
        return {"Authorization": token} if token and same_origin(self.base, url) else {}

    def _once(self, method: str, url: str, headers: dict[str, str], body: Body) -> Response:
        try:
            return self._pool.request(
                method, url, headers=headers, body=body, redirect=False, preload_content=False,
                decode_content=False,
            )  # fmt: skip
        except SSLError as error:  # another attempt finds the same certificate
            raise unreachable(self.host, f"{error}"[:200]) from error
        except (HTTPError, OSError) as error:
            raise PassingError(type(error).__name__ + f": {error}"[:200]) from error

    def _check(self, url: str) -> None:
        """TLS, or this machine, or what the caller insists on."""
        parts = urlsplit(url)
        try:
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise malformed("address", "an address", ascii(url)[:120]) from error
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise malformed("address", "an address of HTTP", ascii(url)[:120])
        here = is_loopback(parts.netloc) and self.base.startswith("http:")
        if parts.scheme == "http" and not here and not self.plain_http:
            raise UsageError(
                "registry.address",
                f"{host} is to be asked without TLS",
                field="registry",
                expected="https, or a registry on this machine",
                got=f"http://{parts.netloc}",
                remedy="--plain-http insists; then no credentials are sent.",
            )


def is_loopback(host: str) -> bool:
    """Whether a host, perhaps with a port, is this machine's loopback interface."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def same_origin(one: str, other: str) -> bool:
    """Whether two addresses are of one server."""
    a, b = urlsplit(one), urlsplit(other)
    return (a.scheme, a.netloc.lower()) == (b.scheme, b.netloc.lower())


def expect(response: Response, *statuses: int) -> None:
    """Only these statuses will do.

    Raises:
        UsageError: ``registry.absent`` for 404, ``registry.denied`` for 401 and 403.
        UnavailableError: ``registry.refused`` for any other.
    """
    status = response.status
    if status in statuses:
        return
    expected = f"status {' or '.join(map(str, statuses))}"
    got = f"{status} {response.reason or ''}"[:80]
    if status == 404:
        raise UsageError(
            "registry.absent",
            "the registry has nothing of that name",
            field="registry",
            expected=expected,
            got=got,
            remedy="Check the name and the tag.",
        )
    if status in (401, 403):
        raise _denied(expected, got)
    raise UnavailableError(
        "registry.refused",
        f"the registry refuses with status {status}",
        field="registry",
        expected=expected,
        got=got,
        remedy="Look at the registry's log; it may not take artifacts.",
    )


def release(response: Response) -> None:
    """Give the connection back, or close it where something of the answer is unread."""
    response.close()
    response.release_conn()


def pieces(response: Response, size: int = 1 << 20) -> Iterator[bytes]:
    """An answer's body as it comes, each piece at once: who reads looks at the time, too.

    Raises:
        PassingError: it is cut.
    """
    try:
        while piece := response.read1(size):
            yield piece
    except (HTTPError, OSError) as error:
        raise PassingError(f"{type(error).__name__}: {error}"[:200]) from error


def _whole(response: Response, limit: int) -> bytes:
    data, end = bytearray(), time.monotonic() + _DOCUMENT_SECONDS
    for piece in pieces(response, _PIECE):
        data += piece
        if len(data) > limit:
            raise malformed("size", f"at most {limit} bytes", "more")
        if time.monotonic() > end:
            raise PassingError(f"no whole answer within {_DOCUMENT_SECONDS:.0f} s")
    return bytes(data)


def malformed(field: str, expected: str, got: str) -> MalformedError:
    """An answer that the protocol doesn't know."""
    return MalformedError(
        "registry.malformed",
        f"the registry answers with an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )


def unreachable(host: str, why: str) -> UnavailableError:
    """After the last attempt."""
    return UnavailableError(
        "registry.unreachable",
        f"the registry {host} can't be reached, or breaks off",
        field="registry",
        expected="an answer",
        got=why,
        remedy="Run the command again: it goes on where it ended.",
    )


def _denied(expected: str, got: str) -> UsageError:
    return UsageError(
        "registry.denied",
        "the registry wants to know who asks, or doesn't let them",
        field="registry",
        expected=expected,
        got=got,
        remedy="skopeo login HOST, or --auth-file.",
    )
