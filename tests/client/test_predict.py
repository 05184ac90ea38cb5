"""Every way in which asking a server can fail has an error of its own, with a remedy."""

import datetime
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from casemate.client import PinnedCertificate, Plaintext, Question, predict, read_certificate
from casemate.client.fetch import pin_fault
from casemate.client.predict import _failure
from casemate.client.wire import tensorflow_serving_pb2 as wire
from casemate.errors import MalformedError, NotGenuineError, UnavailableError, UsageError
from casemate.project.tls import TlsIdentity, make_tls_identity
from casemate.types import Secret
from casemate_testkit.pki import DAY, P256, make, pem
from casemate_testkit.services.web import FakeService

NOW = datetime.datetime.now(datetime.UTC)
IDENTITY = make_tls_identity(("localhost",), now=NOW)
PIXELS = np.zeros((1, 2, 2, 3), np.float32)


def answer(values=(0.25, 0.75), shape=(1, 2), name="activation_49", **fields):
    reply = wire.PredictResponse(model_spec={"name": "resnet"})
    reply.model_spec.version.value = 5
    tensor = reply.outputs[name]
    tensor.dtype = fields.pop("dtype", wire.DT_FLOAT)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    if "tensor_content" in fields:
        tensor.tensor_content = fields["tensor_content"]
    else:
        tensor.float_val.extend(values)
    return reply


class Peer:
    """A server at gRPC's level that says whatever it is told to."""

    def __init__(self, identity=IDENTITY, port=0):
        self.reply = answer().SerializeToString()
        self.code, self.details, self.seen = None, "", []
        method = grpc.unary_unary_rpc_method_handler(self._handle)
        self.server = grpc.server(ThreadPoolExecutor(2))
        self.server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    "tensorflow.serving.PredictionService", {"Predict": method}
                )
            ]
        )
        if identity is None:
            self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            pair = (identity.private_key.reveal(), identity.certificate)
            self.port = self.server.add_secure_port(
                f"127.0.0.1:{port}", grpc.ssl_server_credentials([pair])
            )
        self.server.start()

    def _handle(self, content, context):
        self.seen.append(content)
        if self.code is not None:
            context.abort(self.code, self.details)
        return self.reply


@pytest.fixture
def peer():
    made = Peer()
    yield made
    made.server.stop(None).wait()


def question_to(server, trust, timeout=10.0):
    return Question(server=server, trust=trust, model="resnet", pixels=PIXELS, timeout=timeout)


def ask(port, *, host="localhost", trust=None, timeout=10.0):
    trust = trust or PinnedCertificate(pem=IDENTITY.certificate)
    return predict(question_to(f"{host}:{port}", trust, timeout))


def test_the_request_is_the_reference_clients(peer):
    ask(peer.port)

    (content,) = peer.seen
    request = wire.PredictRequest.FromString(content)
    expected = wire.PredictRequest(
        model_spec={"name": "resnet", "signature_name": "serving_default"}
    )
    expected.inputs["input_1"].CopyFrom(
        wire.TensorProto(
            dtype=wire.DT_FLOAT,
            tensor_shape={"dim": [{"size": size} for size in PIXELS.shape]},
            tensor_content=PIXELS.tobytes(),
        )
    )
    assert request == expected


def test_the_answer_is_read(peer):
    got = ask(peer.port)

    assert (got.model, got.version, got.scores) == ("resnet", 5, (0.25, 0.75))


def test_an_only_output_of_another_name_and_raw_bytes_are_read(peer):
    content = np.array([0.5, 0.25], "<f4").tobytes()
    peer.reply = answer(name="softmax", tensor_content=content).SerializeToString()

    assert ask(peer.port).scores == (0.5, 0.25)


@pytest.mark.parametrize(
    "reply",
    [
        b"\xff\xff",
        b"",
        answer(shape=(1, 3)).SerializeToString(),
        answer(shape=(2,)).SerializeToString(),
        answer(shape=(-1, -2)).SerializeToString(),
        answer(dtype=wire.DT_DOUBLE).SerializeToString(),
        answer(tensor_content=b"12345").SerializeToString(),
    ],
)
def test_an_answer_that_is_none_is_malformed(peer, reply):
    peer.reply = reply
    with pytest.raises(MalformedError) as caught:
        ask(peer.port)
    assert caught.value.code == "client.reply"


def test_another_servers_certificate_is_not_genuine_and_it_sees_nothing(peer):
    other = make_tls_identity(("localhost",), now=NOW)
    with pytest.raises(NotGenuineError) as caught:
        ask(peer.port, trust=PinnedCertificate(pem=other.certificate))
    assert caught.value.code == "client.server-certificate"
    assert peer.seen == []


def test_a_certificate_for_another_host_is_not_genuine_and_it_sees_nothing(peer):
    with pytest.raises(NotGenuineError) as caught:
        ask(peer.port, host="127.0.0.1")
    assert caught.value.code == "client.server-name"
    assert "--host" in caught.value.remedy
    assert peer.seen == []


def test_an_expired_certificate_is_not_genuine():
    old = make_tls_identity(("localhost",), now=NOW - datetime.timedelta(days=9), days=1)
    made = Peer(old)
    with pytest.raises(NotGenuineError):
        ask(made.port, trust=PinnedCertificate(pem=old.certificate))
    made.server.stop(None).wait()


def test_what_a_pinned_certificate_lacks_is_known_by_a_handshake_alone(peer):
    """Where a name has several addresses, gRPC may tell only that nobody listens at the last."""
    server, mine = f"localhost:{peer.port}", IDENTITY.certificate
    other = make_tls_identity(("localhost",), now=NOW).certificate
    fault = pin_fault(server, other, timeout=5)
    assert fault is not None
    assert "CERTIFICATE_VERIFY_FAILED" in fault
    named = pin_fault(f"127.0.0.1:{peer.port}", mine, timeout=5)
    assert named is not None
    assert "IP address mismatch" in named
    assert pin_fault(server, mine, timeout=5) is None
    assert peer.seen == []


def test_a_pinned_certificate_need_not_be_its_own_issuer():
    """Nor need its issuer be known: gRPC takes it as it is, and so does the handshake alone."""
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")]).public_bytes()
    leaf = make("an authority", start=NOW - DAY, end=NOW + DAY).issue(
        "server", ca=False, curve=P256, extensions={"2.5.29.17": names},
        start=NOW - DAY, end=NOW + DAY,
    )  # fmt: skip
    key = leaf.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    certificate = pem(leaf.certificate)
    made = Peer(TlsIdentity(private_key=Secret(key), certificate=certificate))
    assert ask(made.port, trust=PinnedCertificate(pem=certificate)).version == 5
    assert pin_fault(f"localhost:{made.port}", certificate, timeout=5) is None
    made.server.stop(None).wait()


def test_a_wrong_certificate_is_told_though_grpc_tells_of_another_address(peer):
    """Of a name's addresses it tells what the last one said: here that nobody listens there."""
    other = make_tls_identity(("localhost",), now=NOW).certificate
    question = question_to(f"localhost:{peer.port}", PinnedCertificate(pem=other))
    told = _failure(question, grpc.StatusCode.UNAVAILABLE, "ipv6:%5B::1%5D: Connection refused")
    assert told.code == "client.server-certificate"
    assert peer.seen == []


def test_nobody_there_is_unavailable():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        with pytest.raises(UnavailableError) as caught:
            ask(taken.getsockname()[1])
    assert caught.value.code == "client.unreachable"
    assert caught.value.exit_code == 6


def test_silence_is_unavailable_in_time():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(UnavailableError):
            ask(silent.getsockname()[1], timeout=0.5)


def test_plaintext_works_only_when_asked_for():
    made = Peer(None)
    assert ask(made.port, trust=Plaintext()).version == 5
    with pytest.raises(UnavailableError) as caught:
        ask(made.port, host="127.0.0.1")
    assert "--plaintext" in caught.value.remedy
    assert "--crt" not in caught.value.remedy
    made.server.stop(None).wait()


@pytest.mark.parametrize("told", ["Socket closed", "Connection refused"])
def test_plaintext_to_a_server_that_speaks_tls_says_what_to_give_instead(peer, told):
    """Whatever gRPC makes of it: it doesn't know, and a name may have another address besides."""
    with pytest.raises(UnavailableError) as caught:
        ask(peer.port, trust=Plaintext())
    question = question_to(f"localhost:{peer.port}", Plaintext())
    for error in (caught.value, _failure(question, grpc.StatusCode.UNAVAILABLE, told)):
        assert error.code == "client.unreachable"
        assert "speaks TLS" in error.message
        assert "--crt" in error.remedy
        assert "and no --plaintext" in error.remedy
    assert peer.seen == []


def test_plaintext_to_what_is_no_model_server_says_nothing_of_tls():
    with FakeService() as web, pytest.raises(UnavailableError) as caught:
        ask(web.url.rpartition(":")[2], host="127.0.0.1", trust=Plaintext())
    assert "TLS" not in caught.value.message + caught.value.remedy


@pytest.mark.parametrize(
    ("code", "error", "name"),
    [
        (grpc.StatusCode.NOT_FOUND, UsageError, "client.model"),
        (grpc.StatusCode.INVALID_ARGUMENT, UsageError, "client.refused"),
        (grpc.StatusCode.INTERNAL, UnavailableError, "client.server-failed"),
    ],
)
def test_a_servers_refusal_is_passed_on(peer, code, error, name):
    peer.code, peer.details = code, "because"
    with pytest.raises(error) as caught:
        ask(peer.port)
    assert caught.value.code == name
    assert "because" in caught.value.got


@pytest.mark.parametrize(
    "server", ["localhost", "localhost:", ":9000", "a b:1", "h:0", "h:65536", "unix:/x:1", "h:٩"]
)
def test_what_is_not_an_address_is_a_usage_error(server):
    question = Question(server=server, trust=Plaintext(), model="m", pixels=PIXELS, timeout=1)
    with pytest.raises(UsageError):
        predict(question)


def test_a_certificate_must_be_one():
    with pytest.raises(MalformedError):
        read_certificate(b"junk")
    assert read_certificate(IDENTITY.certificate).pem == IDENTITY.certificate
