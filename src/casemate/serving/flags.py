"""The server's flags, in ``tensorflow_model_server``'s names and forms."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from casemate import __version__
from casemate.errors import UsageError

_MIB: Final = 1 << 20
_MAX_MESSAGE_MIB: Final = 1024
_MAX_THREADS: Final = 1024
_DAY: Final = 86_400
FREE_PORT: Final = 0
_BATCHED_THREADS: Final = 64

# Flags of the original that change nothing here, and needn't: with them the same requests get the
# same answers.
_HARMLESS: Final = {
    "num_load_threads": "versions are loaded one after another, beside the requests",
    "num_unload_threads": "unloading takes no time",
    "flush_filesystem_caches": "the system looks after its caches",
    "per_process_gpu_memory_fraction": "models run on processors",
    "remove_unused_fields_from_bundle_metagraph": "an ONNX model has no such fields",
    "num_tflite_pools": "there is no TensorFlow Lite here",
    "num_tflite_interpreters_per_pool": "there is no TensorFlow Lite here",
    "enable_signature_method_name_check": "what a signature takes and gives is checked",
    "xla_cpu_compilation_enabled": "there is no XLA here",
    "xla_gpu_compilation_enabled": "there is no XLA here",
    "skip_initialize_tpu": "there is no TPU here",
    "enable_grpc_healthcheck_service": "it is always there",
}
# Flags that ask for something that isn't here. Switched off, they are harmless.
_ABSENT: Final = {
    "use_alts_credentials": "TLS is set up with --ssl_config_file",
    "prefer_tflite_model": "there is no TensorFlow Lite here",
    "enable_profiler": "there is no profiler here",
    "enable_per_model_batching_parameters": "batching is set up with --batching_parameters_file",
    "platform_config_file": "the platform is ONNX Runtime",
    "tensorflow_session_config_file": "set threads with --tensorflow_intra_op_parallelism",
    "thread_pool_factory_config_file": "set threads with --tensorflow_intra_op_parallelism",
    "mixed_precision": "a model is computed as it is",
    "saved_model_tags": "of a SavedModel, the graph tagged serve is served",
}
_OFF: Final = ("", "0", "false", "False")
# Of those, one that asks for what is there anyway.
_TAGS: Final = "saved_model_tags"
_SERVED_TAG: Final = "serve"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFlags:
    """What the server was asked to do.

    Args:
        host: the address to listen on; ``[::]`` is every address of the machine.
        port: the TCP port for gRPC; 0 takes a free one and says which.
        grpc_socket_path: a unix socket for gRPC beside the port.
        rest_api_port: the TCP port for REST; None: no REST; 0 takes a free one.
        rest_threads: how many REST requests are worked on at the same time.
        rest_timeout: seconds that a REST request may take, and its sending too.
        rest_cors: whether pages of other origins may ask.
        model_name: the name that requests give, without a configuration file.
        model_base_path: the folder that holds a numbered folder for each version.
        model_config_file: which models are served; instead of the two above.
        config_poll_seconds: how often that file is read again; 0: never.
        poll_seconds: how often the models' folders are looked at; 0: once.
        keep_versions: whether versions go on serving when their folder holds none.
        max_load_retries: how often a version that doesn't load is tried again.
        load_retry_seconds: how long after each try.
        labels_ahead: whether labels may name versions that aren't there yet.
        reload_allowed: whether clients may change what is served.
        warmup: whether kept requests run before a version serves.
        warmup_iterations: how often each.
        ssl_config_file: key and certificate as protocol buffer text; none: no TLS.
        batching: whether requests are computed together.
        batching_parameters_file: how, as protocol buffer text.
        monitoring_config_file: whether and where metrics are, as protocol buffer text.
        max_message_bytes: limit on a request, and on the tensors it makes.
        max_requests: limit on requests at once, waiting included.
        threads: how many gRPC requests are worked on at the same time.
        intra_op_threads: threads that compute one request; 0: as the load allows.
        inter_op_threads: parts of a model that are computed at the same time.
        allowed_operations: of a SavedModel, beyond those that only compute.
        tensor_content: whether answers carry raw bytes instead of lists of values.
        channel_arguments: further options for gRPC.
        grace_seconds: how long requests may finish after SIGTERM.
        log_format: ``text`` or ``json``.
        log_requests: whether the log has a line for each request.
        without_effect: flags that were given and change nothing, each with its reason.
    """

    host: str
    port: int
    grpc_socket_path: str
    rest_api_port: int | None
    rest_threads: int
    rest_timeout: float
    rest_cors: bool
    model_name: str
    model_base_path: Path
    model_config_file: Path | None
    config_poll_seconds: int
    poll_seconds: int
    keep_versions: bool
    max_load_retries: int
    load_retry_seconds: float
    labels_ahead: bool
    reload_allowed: bool
    warmup: bool
    warmup_iterations: int
    ssl_config_file: Path | None
    batching: bool
    batching_parameters_file: Path | None
    monitoring_config_file: Path | None
    max_message_bytes: int
    max_requests: int
    threads: int
    intra_op_threads: int
    inter_op_threads: int
    allowed_operations: frozenset[str]
    tensor_content: bool
    channel_arguments: tuple[tuple[str, int | str], ...]
    grace_seconds: float
    log_format: str
    log_requests: bool
    without_effect: tuple[tuple[str, str], ...]


class _Parser(argparse.ArgumentParser):
    """A parser that raises, so that every usage error leaves by the same door."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            "serving.flags", message, remedy="See casemate serve --help for the flags there are."
        )


def parse_flags(arguments: Sequence[str]) -> ServerFlags:
    """Read the command line: ``--flag=value`` or ``--flag value``.

    Raises:
        UsageError: ``serving.flags`` for an unknown, missing or impossible flag.
        SystemExit: after ``--help`` or ``--version``.
    """
    values = _parser().parse_args(arguments)
    if not values.model_base_path and not values.model_config_file:
        raise _flag_error("--model_base_path or --model_config_file is needed")
    session = values.tensorflow_session_parallelism
    # As many as can compute, and as many that are read and checked meanwhile, or answered.
    threads = _BATCHED_THREADS if values.enable_batching else 2 * len(os.sched_getaffinity(0))
    return ServerFlags(
        host=values.host,
        port=values.port,
        grpc_socket_path=values.grpc_socket_path,
        rest_api_port=values.rest_api_port,
        rest_threads=values.rest_api_num_threads or threads,
        rest_timeout=values.rest_api_timeout_in_ms / 1000,
        rest_cors=values.rest_api_enable_cors_support,
        model_name=values.model_name,
        model_base_path=Path(values.model_base_path),
        model_config_file=_path(values.model_config_file),
        config_poll_seconds=values.model_config_file_poll_wait_seconds,
        poll_seconds=values.file_system_poll_wait_seconds,
        keep_versions=values.servable_versions_always_present,
        max_load_retries=values.max_num_load_retries,
        load_retry_seconds=values.load_retry_interval_micros / 1e6,
        labels_ahead=values.allow_version_labels_for_unavailable_models,
        reload_allowed=values.enable_reload_config,
        warmup=values.enable_model_warmup,
        warmup_iterations=max(1, values.num_request_iterations_for_warmup),
        ssl_config_file=_path(values.ssl_config_file),
        batching=values.enable_batching,
        batching_parameters_file=_path(values.batching_parameters_file),
        monitoring_config_file=_path(values.monitoring_config_file),
        max_message_bytes=values.max_message_mib * _MIB,
        max_requests=values.max_requests,
        threads=values.grpc_max_threads or threads,
        intra_op_threads=values.tensorflow_intra_op_parallelism or session,
        inter_op_threads=values.tensorflow_inter_op_parallelism or session,
        allowed_operations=frozenset(values.allowed_operations.split(",")) - {""},
        tensor_content=values.enable_serialization_as_tensor_content,
        channel_arguments=_channel_arguments(values.grpc_channel_arguments),
        grace_seconds=values.grace_seconds,
        log_format=values.log_format,
        log_requests=values.log_requests,
        without_effect=_without_effect(values),
    )


def _without_effect(values: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Flags that were given and change nothing.

    Raises:
        UsageError: where one asks for something that isn't here.
    """
    for name, reason in _ABSENT.items():
        given = getattr(values, name)
        if name == _TAGS and given is not None and given.strip() == _SERVED_TAG:
            continue
        if given is not None and given not in _OFF:
            raise _flag_error(f"--{name} isn't supported: {reason}")
    return tuple(
        (f"--{name}", reason)
        for name, reason in {**_HARMLESS, **_ABSENT}.items()
        if getattr(values, name) is not None
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="casemate serve",
        description="Serve ONNX models and TensorFlow SavedModels as TensorFlow Serving does, "
        "and over the Open Inference Protocol.",
        epilog="Example:  casemate serve --port=9000 --model_name=resnet "
        "--model_base_path=/models/resnet --ssl_config_file=/etc/tf_ssl.cfg",
        allow_abbrev=False,
    )
    _add_ports(parser.add_argument_group("where it answers"))
    _add_models(parser.add_argument_group("what it serves"))
    _add_limits(parser.add_argument_group("how it computes"))
    parser.add_argument("--version", action="version", version=f"casemate serve {__version__}")
    _add_logs(parser.add_argument_group("what it says"))
    for name in (*_HARMLESS, *_ABSENT):
        parser.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
    return parser


def _add_ports(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--port", type=_whole(0, 65535), default=8500, help="port for gRPC (8500; 0: a free one)")
    add("--host", default="[::]", help="address to listen on (every address)")
    add("--grpc_socket_path", default="", metavar="FILE", help="a unix socket for gRPC, too")
    add(
        "--rest_api_port", type=_rest_port, default=None, metavar="PORT",
        help="port for REST (0: no REST; free: a free one)",
    )  # fmt: skip
    add(
        "--rest_api_num_threads", type=_whole(1, _MAX_THREADS), default=None, metavar="N",
        help="REST requests worked on at the same time (2 a core; 64 with batching)",
    )  # fmt: skip
    add(
        "--rest_api_timeout_in_ms", type=_whole(1, 3_600_000), default=30_000, metavar="MS",
        help="time that a REST request may take (30000)",
    )  # fmt: skip
    _switch(group, "rest_api_enable_cors_support", "let pages of other origins ask over REST")
    add(
        "--ssl_config_file", default="", metavar="FILE",
        help="server_key, server_cert, custom_ca, client_verify as protobuf text; none: no TLS",
    )  # fmt: skip
    add(
        "--monitoring_config_file", default="", metavar="FILE",
        help="prometheus_config as protobuf text: metrics on the REST port",
    )  # fmt: skip
    add(
        "--grpc_channel_arguments", default="", metavar="LIST",
        help="further options for gRPC: name=value, separated by commas",
    )  # fmt: skip


def _add_models(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model_name", default="default", help="name that requests give (default)")
    add(
        "--model_base_path", default="", metavar="FOLDER",
        help="holds N/model.onnx or N/saved_model.pb for each version N; the highest is served",
    )  # fmt: skip
    add(
        "--model_config_file", default="", metavar="FILE",
        help="models, versions and labels as ModelServerConfig text; instead of the two above",
    )  # fmt: skip
    add(
        "--model_config_file_poll_wait_seconds", type=_whole(0, _DAY), default=0, metavar="S",
        help="how often that file is read again (0: never)",
    )  # fmt: skip
    add(
        "--file_system_poll_wait_seconds", type=_whole(0, _DAY), default=1, metavar="S",
        help="how often the folders are looked at for new versions (1; 0: once)",
    )  # fmt: skip
    add(
        "--max_num_load_retries", type=_whole(0, 999_999_999), default=5, metavar="N",
        help="further tries for a version that doesn't load (5)",
    )  # fmt: skip
    add(
        "--load_retry_interval_micros", type=_micros, default=60_000_000,
        metavar="US", help="time between tries (60000000; below 0: none)",
    )  # fmt: skip
    add(
        "--allowed_operations", default="", metavar="LIST",
        help="operations of SavedModels that are loaded though they do more than compute",
    )  # fmt: skip
    _switch(group, "servable_versions_always_present", "keep serving when a folder turns empty")
    _switch(
        group, "allow_version_labels_for_unavailable_models",
        "let labels name versions that aren't there yet",
    )  # fmt: skip
    _switch(group, "enable_reload_config", "let clients change what is served")
    _switch(group, "enable_model_warmup", "run kept requests before a version serves (on)", True)
    add(
        "--num_request_iterations_for_warmup", type=_whole(0, 1000), default=1, metavar="N",
        help="how often each of them (1)",
    )  # fmt: skip


def _add_limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--max_message_mib", type=_whole(1, _MAX_MESSAGE_MIB), default=256, metavar="MIB",
        help="limit on a request (256)",
    )  # fmt: skip
    add(
        "--max_requests", type=_whole(1, 100_000), default=512, metavar="N",
        help="requests at once, waiting included; more are refused (512)",
    )  # fmt: skip
    add(
        "--grpc_max_threads", type=_whole(1, _MAX_THREADS), default=None, metavar="N",
        help="gRPC requests worked on at the same time (2 a core; 64 with batching)",
    )  # fmt: skip
    for name, text in (
        ("session", "sets the two below"),
        ("intra_op", "threads that compute one request (0: as the load allows)"),
        ("inter_op", "parts of a model computed at the same time (0: one)"),
    ):
        add(
            f"--tensorflow_{name}_parallelism", type=_whole(0, _MAX_THREADS), default=0,
            metavar="N", help=text,
        )  # fmt: skip
    _switch(group, "enable_batching", "compute requests together")
    add(
        "--batching_parameters_file", default="", metavar="FILE",
        help="how, as BatchingParameters text",
    )  # fmt: skip
    _switch(
        group,
        "enable_serialization_as_tensor_content",
        "answer with raw bytes, not lists of values",
    )
    add(
        "--grace_seconds", type=_whole(0, 3600), default=10, metavar="S",
        help="time to finish requests after SIGTERM (10)",
    )  # fmt: skip


def _add_logs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--log_format", choices=("text", "json"), default="text",
        help="the form of the log on stderr (text)",
    )  # fmt: skip
    _switch(group, "log_requests", "a line for each request: never anything of its content")


def _switch(group: argparse._ArgumentGroup, name: str, text: str, default: bool = False) -> None:
    group.add_argument(
        f"--{name}",
        nargs="?",
        const=True,
        default=default,
        type=_boolean,
        metavar="BOOL",
        help=text,
    )


def _boolean(text: str) -> bool:
    if text in ("true", "True", "1"):
        return True
    if text in ("false", "False", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text[:40]!r}")


def _micros(text: str) -> int:
    """Up to a day, in microseconds; below 0 is 0."""
    negative = text.startswith("-")
    bare = text.removeprefix("-")
    if bare.isascii() and bare.isdigit() and len(bare) <= 11:
        value = 0 if negative else int(bare)
        if value <= _DAY * 1_000_000:
            return value
    raise argparse.ArgumentTypeError(
        f"expected a whole number up to {_DAY * 1_000_000}, got {text[:40]!r}"
    )


def _rest_port(text: str) -> int | None:
    if text == "free":
        return FREE_PORT
    return _whole(0, 65535)(text) or None


def _path(text: str) -> Path | None:
    return Path(text) if text else None


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    arguments: list[tuple[str, int | str]] = []
    for each in text.split(",") if text else ():
        name, equals, value = each.partition("=")
        if not name or not equals:
            raise _flag_error("--grpc_channel_arguments: expected name=value, separated by commas")
        number = value.isascii() and value.removeprefix("-").isdigit() and len(value) < 10
        arguments.append((name, int(value) if number else value))
    return tuple(arguments)


def _flag_error(message: str) -> UsageError:
    return UsageError(
        "serving.flags", message, remedy="See casemate serve --help for the flags there are."
    )


class _whole:  # noqa: N801 (reads as a type in the table above)
    """A whole number in decimal digits, within limits."""

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high

    def __call__(self, text: str) -> int:
        # int() alone takes spaces, underscores and other scripts' digits.
        if text.isascii() and text.isdigit() and len(text) <= 9:
            value = int(text)
            if self._low <= value <= self._high:
                return value
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {self._low} to {self._high}, got {text[:40]!r}"
        )
