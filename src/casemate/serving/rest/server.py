"""The REST port: paths to answers, answers to HTTP."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Final

from casemate.errors import CasemateError, UnavailableError
from casemate.serving.core import Core
from casemate.serving.lifecycle import Gate, connections_of_a_port
from casemate.serving.rest.http import HttpServer, Limits, Request, Response
from casemate.serving.rest.json_tensors import write
from casemate.serving.rest.open_inference import OpenInferenceRest
from casemate.serving.rest.tensorflow import TensorFlowRest
from casemate.serving.status import HTTP_STATUS, Code, status_of
from casemate.serving.wire import tensorflow_serving_pb2 as wire

# Numbers in JSON become objects of many times their size.
_JSON_SHARE: Final = 4
_HELD_BYTES: Final = 1 << 30
_CONNECTIONS: Final = 4096
_CORS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
)
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestOptions:
    """How REST is served.

    Args:
        host: the address to listen on, without brackets.
        port: the port; 0: a free one.
        threads: requests that are worked on at the same time.
        seconds: for a request to arrive, and to be answered.
        cors: whether pages of other origins may ask.
        metrics_path: where metrics are; None: nowhere.
    """

    host: str
    port: int
    threads: int
    seconds: float
    cors: bool
    metrics_path: str | None


class RestServer:
    """REST for a core.

    Args:
        core: answers.
        gate: counts requests.
        options: how it is served.
        tls: key and certificate; None: no TLS.

    Raises:
        UnavailableError: ``serving.port`` where the port can't be opened.
    """

    def __init__(
        self, core: Core, gate: Gate, options: RestOptions, tls: wire.SSLConfig | None
    ) -> None:
        self._core, self._gate, self._options = core, gate, options
        limit = core.max_bytes // _JSON_SHARE
        self._tensorflow = TensorFlowRest(core, max_json_bytes=limit)
        self._open_inference = OpenInferenceRest(core, max_json_bytes=limit)
        self._tls = _tls_context(tls) if tls is not None else None
        self._listener = _listener(options)
        # Connections inherit it. Without it the first answer over TLS waits for the client to
        # acknowledge what the handshake ended with, which systems put off for 40 ms.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port = int(self._listener.getsockname()[1])
        self._http = HttpServer(
            self._handle,
            Limits(
                body_bytes=core.max_bytes,
                held_bytes=max(_HELD_BYTES, 2 * core.max_bytes),
                connections=connections_of_a_port(_CONNECTIONS),
                seconds=options.seconds,
                threads=options.threads,
            ),
        )

    def start(self) -> None:
        """Begin to answer."""
        self._http.listen(self._listener, self._tls)

    def stop_listening(self) -> None:
        """Take no new requests."""
        self._http.stop_listening()

    def close(self) -> None:
        """End every connection."""
        self._http.close()
        self._listener.close()

    def _handle(self, request: Request) -> Response:
        started = time.perf_counter()
        if request.method == "OPTIONS" and self._options.cors:
            return Response(status=200, body=b"", headers=_CORS)
        if request.path == self._options.metrics_path:
            page = self._core.metrics.page()
            return Response(status=200, body=page, content_type="text/plain; version=0.0.4")
        model, api, code = "", "", Code.OK
        try:
            model, api, response = self._answer(request)
        except CasemateError as error:
            code = status_of(error)
            model, api = self._rest_for(request).subject(request)
            response = _failed(code, f"{error} [{error.code}]")
        except Exception as error:  # noqa: BLE001 (the process's edge)
            # The type alone: an error's text may hold what the client sent.
            _LOG.error("a request failed inside the server: %s", type(error).__name__)
            code = Code.INTERNAL
            model, api = self._rest_for(request).subject(request)
            response = _failed(code, "the model server failed on this request")
        if request.method == "POST":
            elapsed = time.perf_counter() - started
            self._core.metrics.answered(self._known(model), api, "REST", code, elapsed)
        if self._options.cors:
            return Response(
                status=response.status,
                body=response.body,
                content_type=response.content_type,
                headers=(*response.headers, *_CORS),
            )
        return response

    def _answer(self, request: Request) -> tuple[str, str, Response]:
        deadline = time.monotonic() + self._options.seconds
        rest = self._rest_for(request)
        if rest is self._tensorflow and not request.path.lower().startswith("/v1/"):
            return "", "", Response(status=404, body=write({"error": "Not Found"}))
        if request.method != "POST":
            return rest.answer(request, deadline)
        self._gate.enter()
        try:
            return rest.answer(request, deadline)
        finally:
            self._gate.computed()
            self._gate.leave()

    def _rest_for(self, request: Request) -> TensorFlowRest | OpenInferenceRest:
        version_2 = request.path == "/v2" or request.path.startswith("/v2/")
        return self._open_inference if version_2 else self._tensorflow

    def _known(self, model: str) -> str:
        return model if model in self._core.models.names() else ""


def _failed(code: Code, message: str) -> Response:
    return Response(status=HTTP_STATUS[code], body=write({"error": message}))


def _listener(options: RestOptions) -> socket.socket:
    try:
        try:
            address = ipaddress.ip_address(options.host)
        except ValueError:
            return socket.create_server((options.host, options.port))
        every = address.version == 6 and address.is_unspecified
        if every and not socket.has_dualstack_ipv6():
            return socket.create_server(("0.0.0.0", options.port))  # noqa: S104 (asked for)
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        return socket.create_server(
            (options.host, options.port), family=family, dualstack_ipv6=every
        )
    except OSError as error:
        raise UnavailableError(
            "serving.port",
            f"can't listen on {options.host}, port {options.port}: {error.strerror}",
            field="rest_api_port",
            remedy="Is another server there, or the port reserved?",
        ) from error


def _tls_context(config: wire.SSLConfig) -> ssl.SSLContext:
    """The same key, certificate and demands on clients as over gRPC.

    Raises:
        UnavailableError: ``serving.tls`` where the key isn't that of the certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # Python reads keys from files alone; this one has no name and lies in memory.
    file = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.write(file, config.server_key.encode() + b"\n" + config.server_cert.encode())
        context.load_cert_chain(f"/proc/self/fd/{file}")
        if config.custom_ca:
            # Python takes ASCII alone, and beside certificates a file may say what they are.
            authorities = config.custom_ca.encode("ascii", "replace").decode()
            context.load_verify_locations(cadata=authorities)
    except OSError as error:
        # Not "from error": nothing of what was read belongs in a message.
        raise UnavailableError(
            "serving.tls",
            "TLS for REST can't be set up",
            field="ssl_config_file",
            got=type(error).__name__,
            remedy="Is the key that of the certificate? Is /proc mounted?",
        ) from None
    finally:
        os.close(file)
    if config.client_verify:
        context.verify_mode = ssl.CERT_REQUIRED
    return context
