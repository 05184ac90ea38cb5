"""A server's connections are bounded, and idle ones make room."""

import contextlib
import socket

from casemate.serving.rest.http import HttpServer, Limits, Response


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
