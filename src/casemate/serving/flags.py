"""The server's flags, in ``tensorflow_model_server``'s names and forms."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from casemate.errors import UsageError

_MIB: Final = 1 << 20
_MAX_MESSAGE_MIB: Final = 1024
_MAX_THREADS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFlags:
    """What the server was asked to do.

    Args:
        host: the address to listen on; ``[::]`` is every address of the machine.
        port: the TCP port; 0 takes a free one and says which.
        model_name: the name that requests give.
        model_base_path: the folder that holds a numbered folder for each version.
        ssl_config_file: key and certificate as protocol buffer text; none: no TLS.
        max_message_bytes: limit on a request, and on the tensors it makes.
        threads: how many requests are worked on at the same time.
        intra_op_threads: how many threads compute one request; 0: one a core.
        grace_seconds: how long requests may finish after SIGTERM.
    """

    host: str
    port: int
    model_name: str
    model_base_path: Path
    ssl_config_file: Path | None
    max_message_bytes: int
    threads: int
    intra_op_threads: int
    grace_seconds: float


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
        SystemExit: after ``--help``.
    """
    values = _parser().parse_args(arguments)
    return ServerFlags(
        host=values.host,
        port=values.port,
        model_name=values.model_name,
        model_base_path=Path(values.model_base_path),
        ssl_config_file=Path(values.ssl_config_file) if values.ssl_config_file else None,
        max_message_bytes=values.max_message_mib * _MIB,
        threads=values.grpc_max_threads,
        intra_op_threads=values.tensorflow_intra_op_parallelism,
        grace_seconds=values.grace_seconds,
    )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="casemate serve",
        description="Serve an ONNX model over TensorFlow Serving's gRPC.",
        epilog="Example:  casemate serve --port=9000 --model_name=resnet "
        "--model_base_path=/models/resnet --ssl_config_file=/etc/tf_ssl.cfg",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--port", type=_whole(0, 65535), default=8500, help="port for gRPC (8500; 0: a free one)")
    add("--host", default="[::]", help="address to listen on (every address)")
    add("--model_name", default="default", help="name that requests give (default)")
    add(
        "--model_base_path",
        required=True,
        metavar="FOLDER",
        help="holds N/model.onnx for each version N; the highest is served",
    )
    add(
        "--ssl_config_file",
        default="",
        metavar="FILE",
        help="server_key, server_cert, custom_ca, client_verify as protobuf text; none: no TLS",
    )
    add(
        "--max_message_mib",
        type=_whole(1, _MAX_MESSAGE_MIB),
        default=256,
        help="limit on a request (256)",
    )
    add(
        "--grpc_max_threads",
        type=_whole(1, _MAX_THREADS),
        default=8,
        help="requests worked on at the same time (8)",
    )
    add(
        "--tensorflow_intra_op_parallelism",
        type=_whole(0, _MAX_THREADS),
        default=0,
        help="threads that compute one request (0: one a core)",
    )
    add(
        "--grace_seconds",
        type=_whole(0, 3600),
        default=10,
        help="time to finish requests after SIGTERM (10)",
    )
    return parser


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
