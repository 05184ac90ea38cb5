"""The gRPC side of the server: its port, what is answered there, and how it ends.

Apart from ``server``, because gRPC takes as long to import as a model takes to load: the server
imports this module in one thread while it loads models in another.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc

from casemate.errors import UnavailableError
from casemate.serving.core import Core
from casemate.serving.discovery import HEALTH, Health, reflection_handlers
from casemate.serving.flags import ServerFlags
from casemate.serving.grpc_service import (
    SERVICES,
    Endpoint,
    open_inference_handler,
    tensorflow_handlers,
)
from casemate.serving.lifecycle import Gate, Waits, connections_of_a_port
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.tensorflow_api import Reloading, TensorFlowApi
from casemate.serving.wire.tensorflow_serving_pb2 import SSLConfig

THREADS_NAME: Final = "grpc"
_WINDOW_BYTES: Final = 4 << 20
# Room beside the tensors for names and the message's own framing.
_OVERHEAD_BYTES: Final = 64 << 10
_KEEPALIVE_SECONDS: Final = 120
_MAX_ARRIVING: Final = 256
_MAX_LEAVING: Final = 256
_OTHERS: Final = 64
_MAX_PENDING: Final = 4096
_MAX_CONNECTIONS: Final = 16_384
# Who begins requests and takes them back at once has as many of them in the server as it lets
# through before it looks at the first; without a bound nobody else's got through.
_MAX_STREAMS: Final = 512
_HANDSHAKE_SECONDS: Final = 10
_IDLE_SECONDS: Final = 600


class GrpcServer:
    """An open port that answers once it is started.

    Args:
        flags: what was asked for.
        core: answers.
        gate: counts requests that compute.
        reloading: what a client may change; None: nothing.
        tls: key and certificates; None: without TLS.
        address: where it listens.

    Raises:
        UnavailableError: ``serving.port``.
    """

    def __init__(
        self,
        flags: ServerFlags,
        core: Core,
        gate: Gate,
        *,
        reloading: Reloading | None,
        tls: SSLConfig | None,
        address: str,
    ) -> None:
        self._health = Health(SERVICES)
        api = TensorFlowApi(core, reloading, tensor_content=flags.tensor_content)
        endpoint = Endpoint(
            core,
            gate,
            workers=flags.threads,
            arrivals=Waits(_MAX_ARRIVING, flags.rest_timeout),
            departures=Waits(_MAX_LEAVING, flags.rest_timeout),
        )
        # A thread for each request that may be there; few of them work at a time.
        self._pool = ThreadPoolExecutor(_threads(flags), thread_name_prefix=THREADS_NAME)
        self._server = grpc.server(
            self._pool,
            handlers=[
                *tensorflow_handlers(endpoint, api),
                open_inference_handler(endpoint, OpenInferenceApi(core)),
                self._health.handler(endpoint),
                *reflection_handlers((*SERVICES, HEALTH)),
            ],
            options=_options(flags),
            maximum_concurrent_rpcs=_threads(flags),
        )
        credentials = _credentials(tls) if tls is not None else None
        if flags.grpc_socket_path:
            self._open(f"unix:{flags.grpc_socket_path}", credentials, "grpc_socket_path")
        self.port = self._open(address, credentials, "port")

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def go_down(self) -> None:
        """Tell those who ask for its health that it is about to end."""
        self._health.go_down()

    def close(self) -> None:
        """End, with whatever is still under way."""
        # Not gRPC's own grace period: with the last request it closes the connection, and what the
        # client has not read of the answer by then is lost.
        self._server.stop(None).wait()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, address: str, credentials: grpc.ServerCredentials | None, field: str) -> int:
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UnavailableError(
                "serving.port",
                f"can't listen on {address}",
                field=field,
                remedy="Is another server there, the port reserved, the socket's folder absent, "
                "or the TLS key not that of the certificate?",
            ) from error
        return int(port)


def _threads(flags: ServerFlags) -> int:
    """Requests that compute or wait for it, those on their way in or out, watchers and the like."""
    return flags.max_requests + _MAX_ARRIVING + _MAX_LEAVING + _OTHERS


def _credentials(config: SSLConfig) -> grpc.ServerCredentials:
    certificate = config.server_cert.encode()
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), certificate)],
        root_certificates=config.custom_ca.encode() if config.custom_ca else None,
        require_client_auth=config.client_verify,
    )


def _options(flags: ServerFlags) -> list[tuple[str, int | str]]:
    return [
        ("grpc.max_receive_message_length", flags.max_message_bytes + _OVERHEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        # A picture is larger than HTTP/2's first window; without this it waits for the client.
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        # The window is large enough; probing for a better one sends pings with every request.
        ("grpc.http2.bdp_probe", 0),
        # Two servers on one port would share its connections without a word.
        ("grpc.so_reuseport", 0),
        # Of requests that gRPC hasn't handed over yet it cancels some at random, from 1000 on by
        # its own rule. Handed over they are answered, or refused with a reason.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_PENDING),
        ("grpc.max_concurrent_streams", _MAX_STREAMS),
        # gRPC would turn away what a client begins while the server still clears up after its
        # earlier requests. Without that the rest waits at the client, as HTTP/2 means it.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_allowed_incoming_connections", connections_of_a_port(_MAX_CONNECTIONS)),
        # Who says nothing, or asks for nothing, doesn't hold one of these for ever.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_idle_ms", _IDLE_SECONDS * 1000),
        # A connection whose client has vanished ends.
        ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_SECONDS * 500),
        *flags.channel_arguments,
    ]
