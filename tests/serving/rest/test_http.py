"""HTTP as a process, over TLS: what clients may do, and what they can't do to the server."""

import contextlib
import http.client
import json
import re
import signal
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

import pytest
from tests.support.model_server import running, until_it_computes
from tests.support.onnx_models import identity_model, put_model, slow_model

CANARY = "canary-in-the-request"


def rest_port(server):
    return int(re.search(r"REST on port (\d+)", server.log.read_text())[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("rest")
    base = put_model(scratch / "m", identity_model(shape=["n", 2]))
    monitoring = scratch / "monitoring"
    monitoring.write_text("prometheus_config { enable: true }")
    flags = (
        "--rest_api_port=free", "--max_message_mib=1", "--rest_api_timeout_in_ms=1500",
        "--rest_api_enable_cors_support", f"--monitoring_config_file={monitoring}",
    )  # fmt: skip
    with running(base, scratch, *flags, name="m") as started:
        yield started


def trusting(server):
    return ssl.create_default_context(cadata=server.certificate.decode())


def connect(server):
    connection = socket.create_connection(("127.0.0.1", rest_port(server)), timeout=20)
    return trusting(server).wrap_socket(connection, server_hostname="localhost")


def ask(server, method, path, body=None, headers=()):
    connection = http.client.HTTPSConnection(
        "localhost", rest_port(server), context=trusting(server), timeout=20
    )
    with contextlib.closing(connection):
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, content, dict(headers))
        response = connection.getresponse()
        return response.status, response.read(), response.headers


GOOD = {"instances": [[1, 2]]}
PREDICT = "/v1/models/m:predict"


def test_predictions_over_tls_on_one_connection(server):
    connection = http.client.HTTPSConnection(
        "localhost", rest_port(server), context=trusting(server), timeout=20
    )
    with contextlib.closing(connection):
        for number in range(3):
            connection.request("POST", PREDICT, json.dumps({"instances": [[number, 2]]}))
            answer = json.loads(connection.getresponse().read())
            assert answer == {"predictions": [[number, 2.0]]}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", PREDICT, {"instances": [[1]]}, 400, "shape [1, 1]"),
        ("POST", "/v1/models/x:predict", GOOD, 404, "isn't served"),
        ("POST", PREDICT, b"{", 400, "JSON parse error"),
        ("GET", "/v1/wish", None, 400, "Malformed request"),
        ("GET", "/wish", None, 404, "Not Found"),
        ("DELETE", "/v1/models/m", None, 400, "Malformed request"),
        ("POST", "/v2/models/m/infer", {"inputs": []}, 400, "a list of"),
        ("POST", PREDICT, b"x" * (2 << 20), 413, "more than"),
    ],
)
def test_a_refusal_is_json_with_an_error(server, method, path, body, status, says):
    got, content, headers = ask(server, method, path, body)
    assert got == status
    assert says in json.loads(content)["error"]
    assert headers["Content-Type"] == "application/json"
    assert CANARY not in server.log.read_text()


def test_nothing_of_a_request_reaches_the_log(server):
    ask(server, "POST", f"/v1/models/{CANARY}:predict", {"instances": [CANARY]})
    ask(server, "POST", PREDICT, {"instances": [[CANARY, 1]], "signature_name": CANARY})
    assert CANARY not in server.log.read_text()


def test_pages_of_other_origins_may_ask_where_they_are_let(server):
    status, _, headers = ask(server, "OPTIONS", PREDICT, headers={"Origin": "https://x"})
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")


def test_metrics_have_the_references_names_and_nothing_of_requests(server):
    ask(server, "POST", PREDICT, GOOD)
    ask(server, "POST", f"/v1/models/{CANARY}:predict", GOOD)

    status, content, headers = ask(server, "GET", "/monitoring/prometheus/metrics")

    page = content.decode()
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert re.search(r':tensorflow:serving:request_count\{model_name="m",status="OK"\} \d+', page)
    assert ':tensorflow:serving:request_latency_bucket{model_name="m",API="Predict",' in page
    assert ':tensorflow:serving:runtime_latency_count{model_name="m"' in page
    assert ":tensorflow:cc:saved_model:load_latency_count{model_path=" in page
    assert CANARY not in page


def count(server, model, status):
    _, content, _ = ask(server, "GET", "/monitoring/prometheus/metrics")
    line = rf':tensorflow:serving:request_count\{{model_name="{model}",status="{status}"\}} (\d+)'
    found = re.search(line, content.decode())
    return int(found[1]) if found else 0


@pytest.mark.parametrize("path", [PREDICT, "/v1/models/m:regress", "/v2/models/m/infer"])
def test_a_refused_request_counts_for_its_model(server, path):
    before = count(server, "m", "INVALID_ARGUMENT")
    assert ask(server, "POST", path, b"{")[0] == 400
    assert count(server, "m", "INVALID_ARGUMENT") == before + 1


def raw(server, content, *, until=b"}"):
    """Send bytes; what comes back until that, or until the server closes."""
    with connect(server) as connection:
        connection.settimeout(10)
        connection.sendall(content)
        received = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while not received.endswith(until) and (chunk := connection.recv(65536)):
                received += chunk
        return received


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"junk\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 400_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\nContent-Length: 0\r\n\r\n",
            b"415",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            + (b"40000\r\n" + bytes(0x40000) + b"\r\n") * 5,
            b"413",
        ),
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_ends(server, content, status):
    assert raw(server, content).split(b" ")[1] == status
    assert ask(server, "POST", PREDICT, GOOD)[0] == 200


def test_a_request_that_never_ends_is_given_up(server):
    began = time.monotonic()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    assert raw(server, head + b"12").startswith(b"HTTP/1.1 408 ")
    assert raw(server, head[:20]).startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 10


def test_requests_one_after_another_without_waiting_are_answered_in_order(server):
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    two = b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = raw(server, one + two, until=b'"ready":true}')
    assert received.index(b'{"live":true}') < received.index(b'{"ready":true}')


def test_who_does_not_read_is_cut_off(server):
    """Its answers would pile up for ever."""
    with socket.create_connection(("127.0.0.1", rest_port(server))) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with trusting(server).wrap_socket(plain, server_hostname="localhost") as connection:
            connection.settimeout(20)
            request = b"GET /v1/models/m/metadata HTTP/1.1\r\nHost: x\r\n\r\n"
            with pytest.raises((ConnectionError, ssl.SSLError, TimeoutError)) as caught:
                for _ in range(100_000):
                    connection.sendall(request * 100)
            assert not isinstance(caught.value, TimeoutError)


def memory(process):
    """Resident memory in MiB."""
    pages = Path(f"/proc/{process.pid}/statm").read_text().split()[1]
    return int(pages) * 4096 / (1 << 20)


def test_idle_connections_cost_little_and_no_thread(server):
    before = memory(server.process)
    connections = []
    try:
        for _ in range(300):
            connections.append(socket.create_connection(("127.0.0.1", rest_port(server))))
        assert ask(server, "POST", PREDICT, GOOD)[0] == 200
        assert memory(server.process) - before < 64
    finally:
        for connection in connections:
            # An end that leaves nothing waiting in the system.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()


def test_sigterm_lets_a_rest_request_finish(tmp_path):
    base = put_model(tmp_path / "m", slow_model(60))
    flags = ("--rest_api_port=free", "--tensorflow_intra_op_parallelism=1")
    size = 900
    tensor = {
        "name": "x", "datatype": "FP32", "shape": [size, size],
        "parameters": {"binary_data_size": 4 * size * size},
    }  # fmt: skip
    outputs = [{"name": "m60", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    with running(base, tmp_path, *flags, name="m") as server:
        answers = []

        def send():
            headers = {"Inference-Header-Content-Length": str(len(head))}
            body = head + bytes(4 * size * size)
            answers.append(ask(server, "POST", "/v2/models/m/infer", body, headers)[0])

        thread = threading.Thread(target=send)
        with until_it_computes(server):
            thread.start()
        assert not answers, "too quick to show anything"
        server.process.send_signal(signal.SIGTERM)
        thread.join()
        assert answers == [200]
        assert server.process.wait(20) == 0
