"""A container registry on loopback, honest by default, that can be made to cut, lie and redirect.

Source: OCI Distribution Specification 1.1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

_TOKEN = "a-token-of-the-registry"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client asked.

    Args:
        method: of HTTP.
        path: with the query.
        headers: names in lower case.
        body: what it sent.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the registry answers.

    Args:
        status: of HTTP.
        headers: beside the length.
        body: all of it, as the length says.
        cut: how many bytes of the body are really sent; None for all.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None


Fault = Callable[[Request], Answer | None]
"""Answers in place of the registry, or not."""


@dataclass(slots=True)
class FakeRegistry:
    """What a registry holds, and how it misbehaves.

    Args:
        blobs: by digest.
        manifests: by tag or digest.
        users: who may ask, by password; everybody where it's empty. A token must be fetched.
        faults: asked first, in order.
        asked: every request so far.
        host: where it is.
    """

    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)
    host: str = ""
    _uploads: dict[str, bytearray] = field(default_factory=dict)

    def add_blob(self, data: bytes) -> str:
        """Put a blob; returns its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = data
        return digest

    def add_manifest(self, data: bytes, tag: str = "latest") -> str:
        """Put a manifest; returns its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.manifests[digest] = self.manifests[tag] = data
        return digest

    def answer(self, request: Request) -> Answer:
        """What it says to a request."""
        self.asked.append(request)
        for fault in tuple(self.faults):
            found = fault(request)
            if found is not None:
                return found
        parts = urlsplit(request.path)
        if parts.path == "/token":
            return self._token(request)
        if self.users and request.headers.get("authorization") != f"Bearer {_TOKEN}":
            challenge = f'Bearer realm="http://{self.host}/token",service="it"'
            return Answer(status=401, headers={"WWW-Authenticate": challenge})
        before, _, rest = parts.path.rpartition("/manifests/")
        if before:
            return self._manifest(request, rest)
        before, _, rest = parts.path.rpartition("/blobs/")
        if rest.startswith("sha256:"):
            return self._blob(request, rest)
        return self._upload(request, parts.path, parse_qs(parts.query))

    def _token(self, request: Request) -> Answer:
        given = request.headers.get("authorization", "").removeprefix("Basic ")
        user, _, password = base64.b64decode(given).decode().partition(":")
        if self.users.get(user) != password:
            return Answer(status=401)
        return Answer(body=json.dumps({"token": _TOKEN}).encode())

    def _manifest(self, request: Request, name: str) -> Answer:
        if request.method == "PUT":
            return Answer(
                status=201, headers={"Docker-Content-Digest": self.add_manifest(request.body, name)}
            )
        data = self.manifests.get(name)
        return (
            Answer(status=404)
            if data is None
            else Answer(headers={"Content-Type": MANIFEST}, body=data)
        )

    def _blob(self, request: Request, digest: str) -> Answer:
        data = self.blobs.get(digest)
        if data is None:
            return Answer(status=404)
        start = request.headers.get("range", "").removeprefix("bytes=").partition("-")[0]
        if not start:
            return Answer(body=data)
        rest = data[int(start) :]
        span = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Answer(status=206, headers={"Content-Range": span}, body=rest)

    def _upload(self, request: Request, path: str, query: Mapping[str, list[str]]) -> Answer:
        if request.method == "POST":
            path = f"{path}{len(self._uploads)}"
            self._uploads[path] = bytearray()
            return Answer(status=202, headers={"Location": path})
        upload = self._uploads.get(path)
        if upload is None:
            return Answer(status=404)
        if request.method == "PATCH":
            start = int(request.headers["content-range"].partition("-")[0])
            if start != len(upload):
                return Answer(status=416, headers={"Location": path})
            upload += request.body
        span = {"Location": path, "Range": f"0-{max(len(upload) - 1, 0)}"}
        if request.method == "PUT":
            digest = self.add_blob(bytes(upload))
            return Answer(status=201 if query["digest"] == [digest] else 400)
        return Answer(status=202 if request.method == "PATCH" else 204, headers=span)


@contextmanager
def running(registry: FakeRegistry, *, tls: ssl.SSLContext | None = None) -> Iterator[FakeRegistry]:
    """The registry on a port of 127.0.0.1, until the end; over TLS with a certificate."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            request = Request(
                method=self.command, path=self.path, body=self.rfile.read(size),
                headers={name.lower(): value for name, value in self.headers.items()},
            )  # fmt: skip
            answer = registry.answer(request)
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            if answer.status != 204:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer  # noqa: N815  names of the library

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  of the library
            """Nothing to stderr."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that goes away is what tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
