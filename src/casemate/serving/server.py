"""The process: load, open the port, say so, answer until told to stop, drain."""

from __future__ import annotations

import ipaddress
import logging
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Final

import grpc

from casemate.errors import UnavailableError, UsageError
from casemate.serving.flags import ServerFlags
from casemate.serving.model import Model, load_model
from casemate.serving.service import Service, handlers
from casemate.serving.ssl_config import load_credentials

_WINDOW_BYTES: Final = 4 << 20
# Room beside the tensors for names and the message's own framing.
_OVERHEAD_BYTES: Final = 64 << 10
_FLUSH_SECONDS: Final = 0.3


class Server:
    """A model behind a port.

    Args:
        flags: what was asked for.
        model: the loaded model.

    Raises:
        UnavailableError: ``serving.port`` where the port can't be opened.
        UsageError, MalformedError: ``serving.ssl-config``.
    """

    def __init__(self, flags: ServerFlags, model: Model) -> None:
        self._flags = flags
        self._model = model
        self._service = Service(model, max_bytes=flags.max_message_bytes)
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=flags.threads, thread_name_prefix="predict"),
            handlers=handlers(self._service),
            options=_options(flags),
        )
        self.port = self._open()

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def drain(self) -> None:
        """Take no new requests, finish those under way within the grace period, and end."""
        # Not gRPC's own grace period: with the last request it closes the connection, and what the
        # client has not read of the answer by then is lost.
        self._service.drain(self._flags.grace_seconds)
        time.sleep(_FLUSH_SECONDS)
        self._server.stop(None).wait()

    def __str__(self) -> str:
        address = _address(self._flags.host, self.port)
        security = "TLS" if self._flags.ssl_config_file else "no TLS"
        return f"model {self._model.name} version {self._model.version} on {address} ({security})"

    def _open(self) -> int:
        address = _address(self._flags.host, self._flags.port)
        path = self._flags.ssl_config_file
        credentials = load_credentials(path) if path else None
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise UnavailableError(
                "serving.port",
                f"can't listen on {address}",
                field="port",
                remedy="Is another server there, the port reserved, "
                "or the TLS key not that of the certificate?",
            ) from error
        return int(port)


def serve(flags: ServerFlags) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status.

    Raises:
        UsageError, MalformedError, UnavailableError: where it can't start.
    """
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="casemate-serving: %(message)s"
    )
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    # Before the model is loaded: a stop during start-up is a stop too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    model = load_model(
        flags.model_name, flags.model_base_path, intra_op_threads=flags.intra_op_threads
    )
    server = Server(flags, model)
    if not stop.is_set():
        server.start()
        _say(f"ready: {server}")
        stop.wait()
    _say("draining")
    server.drain()
    _say("stopped")
    return 0


def _say(text: str) -> None:
    print(f"casemate-serving: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _options(flags: ServerFlags) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", flags.max_message_bytes + _OVERHEAD_BYTES),
        ("grpc.max_send_message_length", -1),
        # A picture is larger than HTTP/2's first window; without this it waits for the client.
        ("grpc.http2.lookahead_bytes", _WINDOW_BYTES),
        # Two servers on one port would share its connections without a word.
        ("grpc.so_reuseport", 0),
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
