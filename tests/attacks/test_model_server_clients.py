"""Clients that mean the model server ill: uncertified, idle by the thousand, half-said."""

import collections
import contextlib
import datetime
import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from tests.support import http2
from tests.support.attested import wait_until
from tests.support.model_server import running, server_command
from tests.support.onnx_models import identity_model, put_model, slow_model

from casemate.project.tls import make_tls_identity
from casemate.serving.wire import tensorflow_serving_pb2 as wire

PREDICT = "/tensorflow.serving.PredictionService/Predict"
_CONNECTIONS = 2000


def rest_port(server):
    return int(re.search(r"REST on port (\d+)", server.log.read_text())[1])


def request():
    made = wire.PredictRequest(model_spec={"name": "resnet"})
    made.inputs["x"].CopyFrom(
        wire.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}]}, float_val=[1])
    )
    return made.SerializeToString()


def predict(channel):
    reply = channel.unary_unary(PREDICT)(request(), timeout=20)
    return list(wire.PredictResponse.FromString(reply).outputs["x_out"].float_val)


class Authority:
    """Signs clients' certificates."""

    def __init__(self, name):
        self.key, self.name = ec.generate_private_key(ec.SECP256R1()), name
        self.certificate = self._sign(name, self.key.public_key(), authority=True)

    def _sign(self, name, key, *, authority):
        now = datetime.datetime.now(datetime.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        return (
            x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )

    def client(self):
        """A client's key and certificate, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign("client", key.public_key(), authority=False)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return pem, certificate.public_bytes(Encoding.PEM)


@pytest.fixture(scope="module")
def authority():
    return Authority("clients")


@pytest.fixture(scope="module")
def demanding(tmp_path_factory, authority):
    """A server that wants its clients' certificates."""
    scratch = tmp_path_factory.mktemp("demanding")
    base = put_model(scratch / "m", identity_model())
    identity = make_tls_identity(("localhost",), now=datetime.datetime.now(datetime.UTC))

    def text(pem):
        return pem.decode().replace("\n", "\\n")

    config = scratch / "ssl.cfg"
    config.write_text(
        f"server_key: '{text(identity.private_key.reveal())}'\n"
        f"server_cert: '{text(identity.certificate)}'\n"
        f"custom_ca: '# Zürich\\n{text(authority.certificate.public_bytes(Encoding.PEM))}'\n"
        "client_verify: true\n"
    )
    flags = ("--rest_api_port=free", f"--ssl_config_file={config}")
    with running(base, scratch, *flags, tls=False) as server:
        yield server, identity.certificate


def over_grpc(demanding, key=None, certificate=None):
    server, trusted = demanding
    credentials = grpc.ssl_channel_credentials(trusted, key, certificate)
    with grpc.secure_channel(server.address, credentials) as channel:
        return predict(channel)


def over_rest(demanding, folder, key=None, certificate=None):
    server, trusted = demanding
    context = ssl.create_default_context(cadata=trusted.decode())
    if key is not None:
        (folder / "client.pem").write_bytes(key + certificate)
        context.load_cert_chain(folder / "client.pem")
    connection = http.client.HTTPSConnection(
        "localhost", rest_port(server), context=context, timeout=20
    )
    with contextlib.closing(connection):
        connection.request("POST", "/v1/models/resnet:predict", json.dumps({"inputs": [1]}))
        return json.loads(connection.getresponse().read())["outputs"]


def test_who_has_a_certificate_of_the_authority_is_served_on_both_ports(
    demanding, authority, tmp_path
):
    assert over_grpc(demanding, *authority.client()) == [1]
    assert over_rest(demanding, tmp_path, *authority.client()) == [1]


@pytest.mark.parametrize("whose", ["nobody's", "another authority's"])
def test_others_are_not_served_on_either_port(demanding, tmp_path, whose):
    # Of the same name, so that the signature alone tells them apart.
    client = Authority("clients").client() if whose != "nobody's" else ()
    with pytest.raises(grpc.RpcError) as caught:
        over_grpc(demanding, *client)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
        over_rest(demanding, tmp_path, *client)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("server")
    base = put_model(scratch / "m", identity_model())
    with running(base, scratch, "--rest_api_port=free") as started:
        yield started


def memory(process):
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * 4096 / (1 << 20)


def threads(process):
    return len(list(Path(f"/proc/{process.pid}/task").iterdir()))


@pytest.mark.parametrize("door", ["grpc", "rest"])
def test_thousands_of_idle_connections_leave_room_for_the_next(server, door):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(_CONNECTIONS, (hard - 200) // 3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + 200), hard))
    port = server.port if door == "grpc" else rest_port(server)
    memory_before, threads_before = memory(server.process), threads(server.process)
    with contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(count):
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        with server.channel() as channel:
            assert predict(channel) == [1]
        assert memory(server.process) - memory_before < count * 0.2
        assert threads(server.process) - threads_before < 20


@pytest.mark.parametrize("door", ["grpc", "rest"])
@pytest.mark.parametrize("tls", [False, True])
def test_more_connections_than_files_take_neither_the_other_port_nor_models(tmp_path, door, tls):
    base = put_model(tmp_path / "m", identity_model())
    flags = ("--rest_api_port=free", "--file_system_poll_wait_seconds=1")
    with (
        running(base, tmp_path, *flags, tls=tls, files=300) as server,
        contextlib.ExitStack() as held,
    ):
        port = server.port if door == "grpc" else rest_port(server)
        for _ in range(400):
            held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
        size = len(server.log.read_bytes())
        put_model(base, identity_model(), version=2)
        wait_until(lambda: "version 2 serves" in server.log.read_text())
        assert len(server.log.read_bytes()) < size + 4096
        # Who takes no part in the attack is answered on the other port; on REST's on either.
        context = None
        if tls:
            context = ssl.create_default_context(cadata=server.certificate.decode())
        if door == "rest":
            with server.channel() as channel:
                assert predict(channel) == [1]
        made = socket.create_connection(("localhost", rest_port(server)), timeout=20)
        with context.wrap_socket(made, server_hostname="localhost") if context else made as asking:
            asking.sendall(b"GET /v1/models/resnet HTTP/1.1\r\nHost: a\r\n\r\n")
            assert asking.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_requests_that_are_begun_and_taken_back_at_once_leave_room_for_others(tmp_path):
    """HTTP/2's rapid reset: without a bound each of the others' requests was cancelled."""
    base = put_model(tmp_path / "m", identity_model())
    with running(base, tmp_path, tls=False) as server, contextlib.ExitStack() as held:
        stop = threading.Event()

        def attack():
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection,
            ):
                connection.sendall(http2.hello())
                for stream in range(1, 1 << 30, 2):
                    reset = http2.frame(http2.RST_STREAM, 0, stream, (8).to_bytes(4))
                    connection.sendall(http2.begun_call(stream, PREDICT) + reset)
                    if stop.is_set():
                        return

        attackers = [threading.Thread(target=attack) for _ in range(2)]
        for each in attackers:
            each.start()
            held.callback(each.join)
        held.callback(stop.set)
        time.sleep(1)
        with server.channel() as channel:
            for _ in range(5):
                assert predict(channel) == [1]


def test_a_connection_that_begins_and_goes_silent_holds_nobody_up(server):
    with contextlib.ExitStack() as held:
        for _ in range(50):
            silent = held.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=20)
            )
            silent.sendall(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello's first bytes
        began = time.monotonic()
        with server.channel() as channel:
            assert predict(channel) == [1]
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "path", [PREDICT, "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
)
def test_requests_that_begin_and_never_end_leave_room_for_others(server, path):
    """GRPC gives each a thread as soon as it begins, and would wait for its message for ever."""
    stop = threading.Event()

    def half_said():
        stop.wait(60)
        yield from ()

    with server.channel() as attacker, server.channel() as channel:
        stalled = [attacker.stream_stream(path)(half_said()) for _ in range(400)]
        try:
            # The longest have made room for the rest.
            wait_until(lambda: sum(not each.is_active() for each in stalled) >= 100)
            began = time.monotonic()
            assert predict(channel) == [1]
            assert time.monotonic() - began < 5
        finally:
            stop.set()


def test_a_request_that_never_ends_is_given_up(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    with running(base, tmp_path, "--rest_api_timeout_in_ms=500") as server:
        stop = threading.Event()

        def half_said():
            stop.wait(60)
            yield from ()

        with server.channel() as channel:
            call = channel.stream_unary(PREDICT).future(half_said(), timeout=30)
            began = time.monotonic()
            assert call.code() is grpc.StatusCode.CANCELLED
            assert time.monotonic() - began < 10
            stop.set()


def unread(port, count):
    """A connection whose client asks so often, and lets not one byte of an answer through."""
    sent = http2.hello(window=0)
    for stream in range(1, 2 * count, 2):
        sent += http2.begun_call(stream, PREDICT) + http2.message(stream, request())
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(sent)
    return connection


def ends(connection, count):
    """Read frames until so many requests are over; how many were within ten seconds."""
    rest, over = b"", 0
    connection.settimeout(10)
    with contextlib.suppress(TimeoutError):
        while over < count and (chunk := connection.recv(65536)):
            found, rest = http2.frames(rest + chunk)
            over += sum(kind == http2.HEADERS and flags & http2.END_STREAM for kind, flags in found)
    return over


def test_who_lets_no_answer_through_leaves_room_for_others_and_is_given_up(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    flags = ("--max_requests=4", "--rest_api_timeout_in_ms=1000")
    with running(base, tmp_path, *flags, tls=False) as server, server.channel() as channel:
        for _ in range(4):
            with unread(server.port, 50):
                time.sleep(0.2)
                assert predict(channel) == [1]
        with unread(server.port, 3) as connection:
            assert ends(connection, 3) == 3


def test_watchers_leave_room_for_requests(server):
    with server.channel() as attacker, server.channel() as channel:
        watch = attacker.unary_stream("/grpc.health.v1.Health/Watch")
        watching = [watch(b"", timeout=60) for _ in range(200)]
        refused = []
        for each in watching:
            try:
                next(each)
            except grpc.RpcError as error:
                refused.append(error.code())
        assert refused == [grpc.StatusCode.RESOURCE_EXHAUSTED] * (200 - 32)
        assert predict(channel) == [1]


@pytest.mark.parametrize(
    "content", [b"\x00" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n"]
)
def test_what_is_no_tls_is_turned_away_and_the_server_lives(server, content):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(content)
    with server.channel() as channel:
        assert predict(channel) == [1]


def test_a_flood_of_requests_is_refused_and_not_queued_without_bound(tmp_path):
    # Of requests that take milliseconds no server is through with one before the next is there.
    base = put_model(tmp_path / "m", slow_model(20))
    square = wire.PredictRequest(model_spec={"name": "resnet"})
    shape = {"dim": [{"size": 200}, {"size": 200}]}
    square.inputs["x"].CopyFrom(wire.TensorProto(dtype=1, tensor_shape=shape))
    flags = ("--max_requests=4", "--grpc_max_threads=1")
    with running(base, tmp_path, *flags) as server, server.channel() as channel:
        call = channel.unary_unary(PREDICT)
        assert call(square.SerializeToString(), timeout=20)
        flood = [call.future(square.SerializeToString(), timeout=60) for _ in range(400)]
        codes = {each.code() for each in flood}
        assert codes == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert call(square.SerializeToString(), timeout=20)


def test_a_crowd_of_requests_at_once_is_answered_or_told_why(server):
    """One of them that is cancelled, with no reason given, looks like the client's own doing."""
    credentials = grpc.ssl_channel_credentials(server.certificate)
    with contextlib.ExitStack() as held:
        calls = [
            held.enter_context(
                grpc.secure_channel(
                    server.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
                )
            ).unary_unary(PREDICT)
            for _ in range(10)
        ]
        crowd = [call.future(request(), timeout=60) for call in calls for _ in range(300)]
        codes = collections.Counter(each.code() for each in crowd)
    assert codes[grpc.StatusCode.OK] >= 500
    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_more_requests_than_a_connection_may_have_wait_at_the_client(server):
    with server.channel() as channel:
        call = channel.unary_unary(PREDICT)
        crowd = [call.future(request(), timeout=60) for _ in range(3000)]
        codes = collections.Counter(each.code() for each in crowd)
    assert codes[grpc.StatusCode.OK] >= 500
    assert codes.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}


def test_a_key_of_another_certificate_ends_the_start_without_showing_it(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    now = datetime.datetime.now(datetime.UTC)
    one, two = (make_tls_identity(("localhost",), now=now) for _ in range(2))
    key = one.private_key.reveal().decode().replace("\n", "\\n")
    certificate = two.certificate.decode().replace("\n", "\\n")
    config = tmp_path / "ssl.cfg"
    config.write_text(f"server_key: '{key}'\nserver_cert: '{certificate}'\n")
    command = server_command(
        f"--model_base_path={base}", "--port=0", "--host=127.0.0.1", f"--ssl_config_file={config}",
        "--rest_api_port=free",
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (2, 3, 6)
    assert key.split("\\n")[1][:20] not in done.stderr
