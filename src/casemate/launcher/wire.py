"""What launcher, keeper and init say to each other over sockets that nobody else holds."""

from __future__ import annotations

import socket

from casemate.encoding import CborValue, MapReader, decode_cbor, encode_cbor
from casemate.errors import (
    CasemateError,
    InternalError,
    MalformedError,
    NotAcceptableError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)

_MAX_MESSAGE = 80 * 1024 * 1024
_TYPES: dict[int, type[CasemateError]] = {
    kind.exit_code: kind
    for kind in (
        InternalError,
        UsageError,
        MalformedError,
        NotGenuineError,
        NotAcceptableError,
        UnavailableError,
    )
}
_PARTS = ("field", "expected", "got", "remedy")


def send_message(end: socket.socket, message: dict[str, CborValue]) -> None:
    """Send one message."""
    body = encode_cbor(message)
    end.sendall(len(body).to_bytes(4, "big") + body)


def receive_message(end: socket.socket) -> MapReader | None:
    """Receive one message; None where the other side has ended."""
    header = _exactly(end, 4)
    if header is None:
        return None
    body = _exactly(end, int.from_bytes(header, "big"))
    if body is None:
        return None
    return MapReader(decode_cbor(body, what="message", max_size=_MAX_MESSAGE), what="message")


def error_message(error: CasemateError) -> dict[str, CborValue]:
    """An error as a message."""
    parts = {name: getattr(error, name) for name in _PARTS if getattr(error, name) is not None}
    return {
        "kind": "error",
        "cause": error.exit_code,
        "code": error.code,
        "message": error.message,
        **parts,
    }


def error_from(message: MapReader) -> CasemateError:
    """The error that a message of the kind ``error`` carries."""
    kind = _TYPES[message.take("cause", int)]
    parts = {name: message.take_optional(name, str) for name in _PARTS}
    return kind(message.take("code", str), message.take("message", str), **parts)


def _exactly(end: socket.socket, length: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < length:
        data = end.recv(min(length - len(parts), 1 << 20))
        if not data:
            return None
        parts += data
    return bytes(parts)
