"""Frames of HTTP/2, for clients that keep to it only as far as they like."""

from __future__ import annotations

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS = 0, 1, 3, 4
END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """A frame (RFC 9113, 4.1)."""
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def frames(received: bytes) -> tuple[list[tuple[int, int]], bytes]:
    """Kind and flags of each frame that is there, and the bytes after the last."""
    found = []
    while len(received) >= 9 + int.from_bytes(received[:3]):
        found.append((received[3], received[4]))
        received = received[9 + int.from_bytes(received[:3]) :]
    return found, received


def hello(*, window: int = 65535) -> bytes:
    """What a client says first; with a window of nothing no byte of an answer may be sent."""
    setting = _INITIAL_WINDOW_SIZE.to_bytes(2) + window.to_bytes(4)
    return PREFACE + frame(SETTINGS, 0, 0, setting)


def begun_call(stream: int, path: str) -> bytes:
    """A call of gRPC up to where its message would begin."""
    fields = b"".join(
        _literal(name, value)
        for name, value in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", path.encode()),
            (b":authority", b"localhost"), (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        )
    )  # fmt: skip
    return frame(HEADERS, _END_HEADERS, stream, fields)


def message(stream: int, content: bytes) -> bytes:
    """The one message of a call."""
    prefixed = b"\x00" + len(content).to_bytes(4) + content
    return frame(DATA, END_STREAM, stream, prefixed)


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field of HPACK, neither indexed nor compressed (RFC 7541, 6.2.2)."""
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
