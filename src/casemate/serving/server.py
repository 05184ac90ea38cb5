"""The process: load, open the ports, say so, answer until told to stop, drain."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import logging
import os
import resource
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING, Final

from casemate.errors import UsageError
from casemate.serving import logs
from casemate.serving.batching import BatchingOptions, parse_batching
from casemate.serving.core import Core
from casemate.serving.flags import ServerFlags
from casemate.serving.lifecycle import Gate
from casemate.serving.loading import Loader
from casemate.serving.metrics import DEFAULT_PATH, Metrics, NoMetrics, PrometheusMetrics
from casemate.serving.model import EngineOptions
from casemate.serving.registry import LoadRules, Registry
from casemate.serving.settings import (
    ModelSettings,
    parse_model_config,
    parse_text,
    read_text_file,
)
from casemate.serving.ssl_config import load_ssl_config
from casemate.serving.turns import Turns
from casemate.serving.watcher import Watcher
from casemate.serving.wire.tensorflow_serving_pb2 import MonitoringConfig, SSLConfig

if TYPE_CHECKING:
    from casemate.serving.grpc_server import GrpcServer
    from casemate.serving.rest.server import RestServer


_FLUSH_SECONDS: Final = 0.3
_MAX_SAID: Final = 8
_POOLS: Final = ("grpc_", "rest_", "engine_")
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
        self._turns = Turns(len(os.sched_getaffinity(0)))
        registry = Registry(_loader(flags, metrics, self._turns).load, _rules(flags))
        self._registry = registry
        self._core = Core(registry, max_bytes=flags.max_message_bytes, metrics=metrics)
        self._gate = Gate(flags.max_requests)
        self._watcher = Watcher(
            registry,
            poll_seconds=flags.poll_seconds,
            config_file=flags.model_config_file,
            config_poll_seconds=flags.config_poll_seconds,
            apply=registry.replace,
        )
        registry.start(_models(flags))
        self._grpc = self._make_grpc(tls)
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
        self._grpc.go_down()
        if self._rest is not None:
            self._rest.stop_listening()
        self._gate.close(self._flags.grace_seconds)
        time.sleep(_FLUSH_SECONDS)
        self._grpc.close()
        if self._rest is not None:
            self._rest.close()
        self._registry.close()
        self._turns.close()

    def __str__(self) -> str:
        address = _address(self._flags.host, self._grpc.port)
        security = "TLS" if self._flags.ssl_config_file else "no TLS"
        models = [
            f"{name} version {state.version}"
            for name in self._registry.names()
            for state in self._registry.states(name)
        ]
        rest = f", REST on port {self._rest.port}" if self._rest is not None else ""
        said = f"model {', '.join(models[:_MAX_SAID])}" if models else "no model"
        return f"{said} on {address} ({security}{rest})"

    def _make_grpc(self, tls: SSLConfig | None) -> GrpcServer:
        # Imported here: gRPC comes in while the models are loaded.
        from casemate.serving.grpc_server import GrpcServer

        return GrpcServer(
            self._flags,
            self._core,
            self._gate,
            reloading=self._registry.replace if self._flags.reload_allowed else None,
            tls=tls,
            address=_address(self._flags.host, self._flags.port),
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


def _models(flags: ServerFlags) -> tuple[ModelSettings, ...]:
    """What the flags, or the file that they name, say is served."""
    if flags.model_config_file is None:
        return (ModelSettings(name=flags.model_name, base_path=flags.model_base_path),)
    content = read_text_file(flags.model_config_file, code="serving.model-config")
    return parse_model_config(content) or ()


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


def _loader(flags: ServerFlags, metrics: Metrics, turns: Turns) -> Loader:
    return Loader(
        engine=EngineOptions(
            intra_op_threads=flags.intra_op_threads,
            inter_op_threads=flags.inter_op_threads,
            allowed_operations=flags.allowed_operations,
        ),
        metrics=metrics,
        warmup_iterations=flags.warmup_iterations if flags.warmup else 0,
        max_bytes=flags.max_message_bytes,
        turns=turns,
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
    _import_ahead(flags)
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


def _import_ahead(flags: ServerFlags) -> None:
    """Import what opens the ports in a thread of its own, while this one loads models."""
    names = ["casemate.serving.grpc_server"]
    if flags.rest_api_port is not None:
        names.append("casemate.serving.rest.server")

    def work() -> None:
        for name in names:
            with contextlib.suppress(ImportError):  # whoever needs it says so
                importlib.import_module(name)

    threading.Thread(target=work, name="imports", daemon=True).start()


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
