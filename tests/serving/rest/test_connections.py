"""A server's connections are bounded, and idle ones make room."""

import contextlib
import gzip
import re
import socket
import sys
import time
import zlib

import pytest
from tests.support.attested import wait_until
from tests.support.onnx_models import identity_model
from tests.support.serving_core import served_core

from casemate.serving.lifecycle import Gate
from casemate.serving.rest.http import HttpServer, Limits, Response
from casemate.serving.rest.server import RestOptions, RestServer


def open_server(connections):
    limits = Limits(
        body_bytes=1 << 16, held_bytes=1 << 20, connections=connections, seconds=20, threads=2
    )
    server = HttpServer(lambda request: Response(status=200, body=request.body), limits)
    listener = socket.create_server(("127.0.0.1", 0))
    server.listen(listener, None)
    return server, listener, listener.getsockname()


def connected(address):
    return socket.create_connection(address, timeout=20)


def ask(connection):
    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    return connection.recv(4096)


def test_the_oldest_idle_connection_makes_room_and_a_busy_one_does_not():
    server, listener, address = open_server(2)
    try:
        busy, idle = connected(address), connected(address)
        for each in (busy, idle):  # the server has the one, then the other
            assert b"200" in ask(each)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        busy.sendall(head)
        assert b"100" in busy.recv(4096)  # it waits for the body
        third = connected(address)
        assert b"200" in ask(third)
        with contextlib.suppress(ConnectionResetError):  # as good an end
            assert idle.recv(1) == b""
        busy.sendall(b"ho")
        assert busy.recv(4096).endswith(b"ho")
        for each in (busy, idle, third):
            each.close()
    finally:
        server.close()
        listener.close()


def test_as_many_connections_as_a_server_takes_may_come_at_once():
    """One that counted twice while it opens would take the place of another."""
    limits = Limits(body_bytes=1 << 16, held_bytes=1 << 20, connections=20, seconds=20, threads=2)
    server = HttpServer(lambda request: Response(status=200, body=request.body), limits)
    listener = socket.create_server(("127.0.0.1", 0), backlog=20)
    with contextlib.ExitStack() as held:
        # They wait before the server listens, so that it finds one after another without a pause.
        each_one = [held.enter_context(connected(listener.getsockname())) for _ in range(20)]
        try:
            server.listen(listener, None)
            for each in (*each_one, *each_one):  # again: none has been ended after its answer
                assert b"200" in ask(each)
        finally:
            server.close()
            listener.close()


def test_nothing_that_is_sent_waits_for_an_acknowledgement(tmp_path):
    """Which some clients' systems put off for 40 ms. Connections inherit it where they come in."""
    options = RestOptions(
        host="127.0.0.1", port=0, threads=1, seconds=5, cors=False, metrics_path=None
    )
    server = RestServer(served_core(tmp_path, identity_model()), Gate(1), options, None)
    try:
        assert server._listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    finally:
        server.close()


@contextlib.contextmanager
def serving(handle=None, *, held_bytes=1 << 20, body_bytes=1 << 16):
    limits = Limits(
        body_bytes=body_bytes, held_bytes=held_bytes, connections=50, seconds=20, threads=2
    )
    told = []

    def answer(request):
        told.append(request)
        return handle(request) if handle else Response(status=200, body=request.body)

    server = HttpServer(answer, limits)
    listener = socket.create_server(("127.0.0.1", 0))
    server.listen(listener, None)
    try:
        yield listener.getsockname(), told
    finally:
        server.close()
        listener.close()


def exchange(address, content):
    """What comes back until the server closes, or has answered and waits."""
    with connected(address) as connection:
        connection.sendall(content)
        connection.settimeout(2)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
                head, end, body = received.partition(b"\r\n\r\n")
                size = re.search(rb"Content-Length: (\d+)", head)
                if end and size and len(body) >= int(size[1]) and b"close" not in head:
                    break
        return received


def post(body, *headers, target=b"/x"):
    lines = [b"POST " + target + b" HTTP/1.1", b"Host: x", *headers]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])


@pytest.mark.parametrize(
    ("status", "line"), [(200, b"200 OK"), (404, b"404 Not Found"), (499, b"499 Client Closed")]
)
def test_a_status_says_what_it_means(status, line):
    with serving(lambda request: Response(status=status, body=b"")) as (address, _):
        assert exchange(address, post(b"")).startswith(b"HTTP/1.1 " + line)


def test_a_target_may_name_the_server_as_through_a_proxy():
    with serving() as (address, told):
        for target in (b"http://x:1/v2?y", b"HTTPS://x/v2", b"http://x"):
            assert b"200" in exchange(address, post(b"", target=target))
        assert [request.path for request in told] == ["/v2", "/v2", "/"]


def test_a_request_with_two_lengths_is_refused_and_ends_the_connection():
    """A proxy before the server might take the other one, and see other requests than it."""
    content = post(b"0\r\n\r\n", b"Transfer-Encoding: chunked")
    with serving() as (address, told):
        received = exchange(address, content + post(b""))
        assert received.startswith(b"HTTP/1.1 400 ")
        assert received.count(b"HTTP/1.1") == 1
        assert not told


@pytest.mark.parametrize(
    ("name", "compress"),
    [(b"gzip", gzip.compress), (b"X-Gzip", gzip.compress), (b"deflate", zlib.compress)],
)
def test_a_compressed_body_is_unpacked(name, compress):
    given = b'{"instances": [1]}' * 3000
    with serving() as (address, told):
        content = post(compress(given), b"Content-Encoding: " + name)
        assert exchange(address, content).endswith(given)
        assert told[0].body == given


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (gzip.compress(b"0" * (10 << 20)), (b"Content-Encoding: gzip",), b"413"),
        (gzip.compress(b"0" * 1000)[:-3], (b"Content-Encoding: gzip",), b"400"),
        (gzip.compress(b"0") + b"more", (b"Content-Encoding: gzip",), b"400"),
        (b"", (b"Content-Encoding: gzip",), b"400"),
        (b"junk", (b"Content-Encoding: gzip",), b"400"),
        (b"junk", (b"Content-Encoding: br",), b"415"),
        (b"junk", (b"Content-Encoding: gzip, gzip",), b"415"),
    ],
    ids=["bomb", "cut", "more", "empty", "junk", "other", "twice"],
)
def test_what_cannot_be_unpacked_or_grows_too_large_is_refused(body, headers, status):
    with serving() as (address, told):
        assert exchange(address, post(body, *headers)).startswith(b"HTTP/1.1 " + status)
        assert not told


def test_answers_that_nobody_reads_are_bounded_together():
    size = 8 << 20  # more than the system's own buffers take
    answer = Response(status=200, body=bytes(size))
    with serving(lambda request: answer, held_bytes=3 * size + size // 2) as (address, told):
        lazy = [connected(address) for _ in range(3)]
        for number, each in enumerate(lazy, 1):
            each.sendall(post(b""))
            wait_until(lambda number=number: len(told) == number)
            assert each.recv(10) == b"HTTP/1.1 2"
        assert exchange(address, post(b"")).startswith(b"HTTP/1.1 429 ")
        for each in lazy:
            each.close()
        wait_until(lambda: exchange(address, post(b"")).startswith(b"HTTP/1.1 200 "))


def test_a_request_is_let_go_of_before_its_answer_is_read():
    answer = Response(status=200, body=bytes(8 << 20))
    small = 1 << 20  # less than the answer alone: one has to be given all the same
    with (
        serving(lambda request: answer, held_bytes=small) as (address, told),
        connected(address) as lazy,
    ):
        lazy.sendall(post(b"x" * 1000))
        assert lazy.recv(10) == b"HTTP/1.1 2"
        request = told.pop()
        wait_until(lambda: sys.getrefcount(request) == 2)  # ours, and the call's own


def test_bodies_that_are_arriving_take_no_more_than_the_server_holds():
    with serving(held_bytes=50_000) as (address, _), contextlib.ExitStack() as held:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n"
        first, second = (held.enter_context(connected(address)) for _ in range(2))
        first.sendall(head + bytes(30_000))
        time.sleep(0.2)
        second.sendall(head + bytes(30_000))
        assert second.recv(4096).startswith(b"HTTP/1.1 429 ")
        first.sendall(bytes(10_000))
        assert first.recv(4096).startswith(b"HTTP/1.1 200 ")
