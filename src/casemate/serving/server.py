"""The process: load, open the ports, say so, answer until told to stop, drain."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TYPE_CHECKING, Final

import grpc

from casemate.errors import UnavailableError, UsageError
from casemate.serving import logs
from casemate.serving.batching import BatchingOptions, parse_batching
from casemate.serving.core import Core
from casemate.serving.discovery import HEALTH, Health, reflection_handler
from casemate.serving.flags import ServerFlags
from casemate.serving.grpc_service import (
    SERVICES,
    Endpoint,
    open_inference_handler,
    tensorflow_handlers,
)
from casemate.serving.lifecycle import Gate, Waits
from casemate.serving.loading import Loader
from casemate.serving.metrics import DEFAULT_PATH, Metrics, NoMetrics, PrometheusMetrics
from casemate.serving.model import EngineOptions
from casemate.serving.open_inference import OpenInferenceApi
from casemate.serving.registry import LoadRules, Registry
from casemate.serving.settings import (
    ModelSettings,
    parse_model_config,
    parse_text,
    read_text_file,
)
from casemate.serving.ssl_config import grpc_credentials, load_ssl_config
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.watcher import Watcher
from casemate.serving.wire.tensorflow_serving_pb2 import MonitoringConfig, SSLConfig

if TYPE_CHECKING:
    from casemate.serving.rest.server import RestServer


_WINDOW_BYTES: Final = 4 << 20
# Room beside the tensors for names and the message's own framing.
_OVERHEAD_BYTES: Final = 64 << 10
_FLUSH_SECONDS: Final = 0.3
_KEEPALIVE_SECONDS: Final = 120
_MAX_SAID: Final = 8
_MAX_ARRIVING: Final = 256
_MAX_LEAVING: Final = 256
_OTHERS: Final = 64
_POOLS: Final = ("grpc_", "rest_")
_LOG: Final = logging.getLogger(__name__)


class Server:
    """Models behind ports.

    Args:
        flags: what was asked for.

    Raises:
        CasemateError: where a model can't be loaded, a file isn't what its flag says, or a port
            can't be opened.
    """

    def __init__(self, flags: ServerFlags) -> None:
        self._flags = flags
        for flag, reason in flags.without_effect:
            _LOG.warning("%s has no effect: %s", flag, reason)
        tls = load_ssl_config(flags.ssl_config_file) if flags.ssl_config_file else None
        metrics_path = _metrics_path(flags)
        metrics: Metrics = PrometheusMetrics() if metrics_path else NoMetrics()
        if flags.log_requests:
            metrics = logs.RequestLog(metrics)
        registry = Registry(_loader(flags, metrics).load, _rules(flags))
        self._registry = registry
        self._core = Core(registry, max_bytes=flags.max_message_bytes, metrics=metrics)
        self._gate = Gate(flags.max_requests)
        self._health = Health(SERVICES)
        self._watcher = Watcher(
            registry,
            poll_seconds=flags.poll_seconds,
            config_file=flags.model_config_file,
            config_poll_seconds=flags.config_poll_seconds,
            apply=registry.replace,
        )
        registry.start(_models(flags))
        # A thread for each request that may be there; few of them work at a time.
        self._pool = ThreadPoolExecutor(_threads(flags), thread_name_prefix="grpc")
        self._grpc = self._make_grpc()
        self.port = self._open(grpc_credentials(tls) if tls else None)
        self._rest = self._make_rest(tls, metrics_path)

    def start(self) -> None:
        """Begin to answer."""
        self._grpc.start()
        if self._rest is not None:
            self._rest.start()
        self._watcher.start()

    def drain(self) -> None:
        """Take no new requests, finish those under way within the grace period, and end."""
        self._watcher.stop()
        self._health.go_down()
        # Not gRPC's own grace period: with the last request it closes the connection, and what the
        # client has not read of the answer by then is lost.
        if self._rest is not None:
            self._rest.stop_listening()
        self._gate.close(self._flags.grace_seconds)
        time.sleep(_FLUSH_SECONDS)
        self._grpc.stop(None).wait()
        if self._rest is not None:
            self._rest.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._registry.close()

    def __str__(self) -> str:
        address = _address(self._flags.host, self.port)
        security = "TLS" if self._flags.ssl_config_file else "no TLS"
        models = [
            f"{name} version {state.version}"
            for name in self._registry.names()
            for state in self._registry.states(name)
        ]
        rest = f", REST on port {self._rest.port}" if self._rest is not None else ""
        return f"model {', '.join(models[:_MAX_SAID])} on {address} ({security}{rest})"

    def _make_grpc(self) -> grpc.Server:
        api = TensorFlowApi(
            self._core,
            self._registry.replace if self._flags.reload_allowed else None,
            tensor_content=self._flags.tensor_content,
        )
        endpoint = Endpoint(
            self._core,
            self._gate,
            workers=self._flags.threads,
            arrivals=Waits(_MAX_ARRIVING, self._flags.rest_timeout),
            departures=Waits(_MAX_LEAVING, self._flags.rest_timeout),
        )
        return grpc.server(
            self._pool,
            handlers=[
                *tensorflow_handlers(endpoint, api),
                open_inference_handler(endpoint, OpenInferenceApi(self._core)),
                self._health.handler(endpoint),
                reflection_handler((*SERVICES, HEALTH)),
            ],
            options=_options(self._flags),
            maximum_concurrent_rpcs=_threads(self._flags),
        )

    def _make_rest(self, tls: SSLConfig | None, metrics_path: str | None) -> RestServer | None:
        flags = self._flags
        if flags.rest_api_port is None:
            return None
        # Imported here: a server without REST starts without it.
        from casemate.serving.rest.server import RestOptions, RestServer

        options = RestOptions(
            host=flags.host.removeprefix("[").removesuffix("]"),
            port=flags.rest_api_port,
            threads=flags.rest_threads,
            seconds=flags.rest_timeout,
            cors=flags.rest_cors,
            metrics_path=metrics_path,
        )
        return RestServer(self._core, self._gate, options, tls)

    def _open(self, credentials: grpc.ServerCredentials | None) -> int:
        address = _address(self._flags.host, self._flags.port)
        try:
            if self._flags.grpc_socket_path:
                self._grpc.add_insecure_port(f"unix:{self._flags.grpc_socket_path}")
            if credentials is None:
                port = self._grpc.add_insecure_port(address)
            else:
                port = self._grpc.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UnavailableError(
                "serving.port",
                f"can't listen on {address}",
                field="port",
                remedy="Is another server there, the port reserved, "
                "or the TLS key not that of the certificate?",
            ) from error
        return int(port)


def _threads(flags: ServerFlags) -> int:
    """Requests that compute or wait for it, those on their way in or out, watchers and the like."""
    return flags.max_requests + _MAX_ARRIVING + _MAX_LEAVING + _OTHERS


def _models(flags: ServerFlags) -> tuple[ModelSettings, ...]:
    """What the flags, or the file that they name, say is served."""
    if flags.model_config_file is None:
        return (ModelSettings(name=flags.model_name, base_path=flags.model_base_path),)
    content = read_text_file(flags.model_config_file, code="serving.model-config")
    return parse_model_config(content)


def _metrics_path(flags: ServerFlags) -> str | None:
    """Where metrics are asked for; None: nowhere."""
    path = flags.monitoring_config_file
    if path is None:
        return None
    config = MonitoringConfig()
    code = "serving.monitoring-config"
    parse_text(read_text_file(path, code=code), config, code=code)
    if not config.prometheus_config.enable:
        return None
    if flags.rest_api_port is None:
        raise UsageError(code, "metrics are on the REST port: --rest_api_port is needed, too")
    return config.prometheus_config.path or DEFAULT_PATH


def _loader(flags: ServerFlags, metrics: Metrics) -> Loader:
    return Loader(
        engine=EngineOptions(
            intra_op_threads=flags.intra_op_threads,
            inter_op_threads=flags.inter_op_threads,
            allowed_operations=flags.allowed_operations,
        ),
        metrics=metrics,
        warmup_iterations=flags.warmup_iterations if flags.warmup else 0,
        max_bytes=flags.max_message_bytes,
        batching=_batching(flags),
    )


def _batching(flags: ServerFlags) -> BatchingOptions | None:
    if not flags.batching:
        if flags.batching_parameters_file is not None:
            raise UsageError(
                "serving.batching", "--batching_parameters_file is for --enable_batching"
            )
        return None
    content, path = b"", flags.batching_parameters_file
    if path is not None:
        content = read_text_file(path, code="serving.batching")
    return parse_batching(content, cores=len(os.sched_getaffinity(0)))


def _rules(flags: ServerFlags) -> LoadRules:
    return LoadRules(
        retries=flags.max_load_retries,
        retry_seconds=flags.load_retry_seconds,
        keep_without_versions=flags.keep_versions,
        labels_ahead=flags.labels_ahead,
    )


def serve(flags: ServerFlags) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Raises:
        UsageError, MalformedError, UnavailableError: where it can't start.
    """
    logs.set_up(flags.log_format)
    _allow_connections()
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    # Before the model is loaded: a stop during start-up is a stop too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    server = Server(flags)
    if not stop.is_set():
        server.start()
        _say(f"ready: {server}")
        stop.wait()
    _say("draining")
    server.drain()
    _say("stopped")
    _leave()
    return 0


def _leave() -> None:
    """End the process even if a request still computes.

    The engine can't be stopped at it, and Python's own end would wait for every pool's threads.
    """
    end = time.monotonic() + _FLUSH_SECONDS
    for thread in threading.enumerate():
        if thread.name.startswith(_POOLS):
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                os._exit(0)


def _allow_connections() -> None:
    """Thousands of connections are thousands of open files: as many as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _say(text: str) -> None:
    _LOG.info("%s", text)


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
        # A connection whose client has vanished ends.
        ("grpc.keepalive_time_ms", _KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_SECONDS * 500),
        *flags.channel_arguments,
    ]


def _address(host: str, port: int) -> str:
    bare = host.removeprefix("[").removesuffix("]")
    try:
        is_ipv6 = ipaddress.ip_address(bare).version == 6
    except ValueError:
        if not bare or not all(c.isalnum() or c in "-." for c in bare):
            raise UsageError(
                "serving.flags", "not a host name or address", field="host", got=repr(host[:80])
            ) from None
        is_ipv6 = False
    return f"[{bare}]:{port}" if is_ipv6 else f"{bare}:{port}"
