"""The server as a process: every method, every refusal, and how it stops."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2
from onnx import TensorProto, helper
from tests.support.model_server import running, server_command, until_it_computes
from tests.support.onnx_models import as_model, identity_model, put_model, slow_model

from casemate.serving.wire import tensorflow_serving_pb2 as wire

PREDICTION = "/tensorflow.serving.PredictionService/"
HEALTH = "/grpc.health.v1.Health/"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
CANARY = "canary-in-the-request"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("server")
    base = put_model(scratch / "m", identity_model(shape=["n", 2], inputs=("a", "b")), version=3)
    with running(base, scratch, "--max_message_mib=1") as running_server:
        yield running_server


@pytest.fixture(scope="module")
def channel(server):
    with server.channel() as opened:
        yield opened


def ask(channel, path, request, reply_type):
    return channel.unary_unary(path, wire_bytes, reply_type.FromString)(request, timeout=20)


def wire_bytes(request):
    return request if isinstance(request, bytes) else request.SerializeToString()


def good(**changes):
    spec = {"name": "resnet", "signature_name": "serving_default"}
    request = wire.PredictRequest(model_spec=spec, **changes)
    for index, name in enumerate("ab"):
        tensor = request.inputs[name]
        tensor.dtype = wire.DT_FLOAT
        tensor.tensor_shape.dim.add(size=1)
        tensor.tensor_shape.dim.add(size=2)
        tensor.float_val.extend([index, index + 0.5])
    return request


def predict(channel, request):
    return ask(channel, PREDICTION + "Predict", request, wire.PredictResponse)


def test_a_prediction_names_the_model_version_and_signature_that_made_it(channel):
    reply = predict(channel, good())

    assert reply.model_spec.name == "resnet"
    assert reply.model_spec.version.value == 3
    assert reply.model_spec.signature_name == "serving_default"
    assert list(reply.outputs["b_out"].float_val) == [1, 1.5]
    assert set(reply.outputs) == {"a_out", "b_out"}


def test_an_empty_signature_name_is_the_default(channel):
    request = good()
    request.model_spec.signature_name = ""
    request.model_spec.version.value = 3

    assert predict(channel, request).model_spec.signature_name == "serving_default"


def test_only_the_outputs_asked_for_come_back(channel):
    assert set(predict(channel, good(output_filter=["a_out"])).outputs) == {"a_out"}


def _named(name):
    request = good()
    request.model_spec.name = name
    return request


def _version(value):
    request = good()
    request.model_spec.version.value = value
    return request


def _label(value):
    request = good()
    request.model_spec.version_label = value
    return request


def _signature(value):
    request = good()
    request.model_spec.signature_name = value
    return request


def _without(name):
    request = good()
    del request.inputs[name]
    return request


def _input(**fields):
    request = good()
    request.inputs["a"].MergeFrom(wire.TensorProto(**fields))
    return request


def _more():
    request = good()
    request.inputs[CANARY].CopyFrom(request.inputs["a"])
    return request


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_made", "code", "says"),
    [
        (_named("other"), MISSING, "got: 'other', any version"),
        (_named(""), INVALID, "model_spec.name"),
        (_version(4), MISSING, "version 4"),
        (_label("stable"), INVALID, "got: 'stable'"),
        (_signature(CANARY), grpc.StatusCode.FAILED_PRECONDITION, "expected: serving_default"),
        (_without("a"), INVALID, "expected: a, b; got: 'b'"),
        (_more(), INVALID, "expected: a, b"),
        (_input(dtype=wire.DT_INT32), INVALID, "expected: DT_FLOAT [?, 2]; got: DT_INT32 [1, 2]"),
        (_input(tensor_shape={"dim": [{"size": 2}]}), INVALID, "got: DT_FLOAT [1, 2, 2]"),
        (_input(float_val=[1]), INVALID, "expected: at most 2; got: 3"),
        (_input(tensor_content=b"x"), INVALID, "more than one field"),
        (good(output_filter=["c"]), INVALID, "expected: a_out, b_out; got: 'c'"),
        (good(output_filter=["a_out", "a_out"]), INVALID, "twice"),
        (b"\xff\xff\xff", INVALID, "not a PredictRequest"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_what_would(channel, request_made, code, says):
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, request_made)
    assert caught.value.code() is code
    assert says in caught.value.details()


def test_a_request_over_the_limit_is_refused(channel):
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, bytes(2 << 20))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_shape_over_the_limit_is_refused_before_memory_is_taken(channel):
    request = good()
    request.inputs["a"].tensor_shape.dim[0].size = 1 << 40
    with pytest.raises(grpc.RpcError, match="too large"):
        predict(channel, request)


def test_metadata_describes_the_signature(channel):
    request = wire.GetModelMetadataRequest(
        model_spec={"name": "resnet"}, metadata_field=["signature_def"]
    )
    reply = ask(channel, PREDICTION + "GetModelMetadata", request, wire.GetModelMetadataResponse)

    packed = reply.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signature = wire.SignatureDefMap.FromString(packed.value).signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert set(signature.inputs) == {"a", "b"}
    assert signature.inputs["a"].dtype == wire.DT_FLOAT
    assert [dim.size for dim in signature.outputs["b_out"].tensor_shape.dim] == [-1, 2]
    assert reply.model_spec.version.value == 3


@pytest.mark.parametrize("fields", [[], ["signature_def", "x"], ["x"]])
def test_other_metadata_is_refused(channel, fields):
    request = wire.GetModelMetadataRequest(model_spec={"name": "resnet"}, metadata_field=fields)
    with pytest.raises(grpc.RpcError, match="signature_def"):
        ask(channel, PREDICTION + "GetModelMetadata", request, wire.GetModelMetadataResponse)


def test_status_says_available(channel):
    request = wire.GetModelStatusRequest(model_spec={"name": "resnet"})

    (status,) = ask(channel, STATUS, request, wire.GetModelStatusResponse).model_version_status

    assert (status.version, status.state) == (3, wire.ModelVersionStatus.AVAILABLE)
    assert status.HasField("status")
    assert status.status.error_code == 0


def test_health_is_for_the_server_and_its_services(channel):
    for service in ("", "tensorflow.serving.PredictionService"):
        request = health_pb2.HealthCheckRequest(service=service)
        reply = ask(channel, HEALTH + "Check", request, health_pb2.HealthCheckResponse)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        unknown = health_pb2.HealthCheckRequest(service="x")
        ask(channel, HEALTH + "Check", unknown, health_pb2.HealthCheckResponse)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_nothing_of_a_request_reaches_the_log(server, channel):
    for request in (_signature(CANARY), _more(), _named(CANARY), CANARY.encode()):
        with pytest.raises(grpc.RpcError):
            predict(channel, request)
    assert CANARY not in server.log.read_text()


def test_a_request_on_which_the_model_fails_is_internal_and_stays_out_of_the_log(tmp_path):
    info = helper.make_tensor_value_info
    model = as_model(
        [
            helper.make_node("Reshape", ["x", "three"], ["y"]),
            helper.make_node("Identity", ["s"], ["z"]),
        ],
        [info("x", TensorProto.FLOAT, ["n"]), info("s", TensorProto.STRING, [1])],
        [info("y", TensorProto.FLOAT, [3]), info("z", TensorProto.STRING, [1])],
        [helper.make_tensor("three", TensorProto.INT64, [1], [3])],
    )
    request = wire.PredictRequest(model_spec={"name": "resnet"})
    for name, dtype, size in (("x", wire.DT_FLOAT, 5), ("s", wire.DT_STRING, 1)):
        request.inputs[name].dtype = dtype
        request.inputs[name].tensor_shape.dim.add(size=size)
    request.inputs["s"].string_val.append(CANARY.encode())
    with (
        running(put_model(tmp_path / "m", model), tmp_path, tls=False) as server,
        server.channel() as channel,
    ):
        with pytest.raises(grpc.RpcError) as caught:
            predict(channel, request)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "a request failed" in server.log.read_text()
        assert CANARY not in server.log.read_text() + caught.value.details()


def test_the_engine_reports_to_nobody(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    with running(put_model(tmp_path / "m", identity_model()), tmp_path) as server:
        assert list(home.iterdir()) == []  # where its events would wait to be sent
        assert "telemetry" not in server.log.read_text()


def test_sigterm_lets_a_request_finish_and_then_exits_0(tmp_path):
    base = put_model(tmp_path / "m", slow_model(60))
    request = wire.PredictRequest(model_spec={"name": "resnet"})
    tensor = request.inputs["x"]
    tensor.dtype = wire.DT_FLOAT
    for _ in range(2):
        tensor.tensor_shape.dim.add(size=900)
    with running(base, tmp_path, "--tensorflow_intra_op_parallelism=1") as server:
        with server.channel() as channel:
            grpc.channel_ready_future(channel).result(20)
            with until_it_computes(server):
                call = channel.unary_unary(
                    PREDICTION + "Predict", wire_bytes, wire.PredictResponse.FromString
                ).future(request, timeout=60)
            assert not call.done(), "too quick to show anything"
            server.process.send_signal(signal.SIGTERM)
            assert "m60" in call.result().outputs
        assert server.process.wait(20) == 0
        log = server.log.read_text()
        assert log.index("draining") < log.index("goes") < log.index("stopped")


def test_a_request_that_outlasts_the_grace_period_is_left_behind(tmp_path):
    base = put_model(tmp_path / "m", slow_model(400))
    request = wire.PredictRequest(model_spec={"name": "resnet"})
    tensor = request.inputs["x"]
    tensor.dtype = wire.DT_FLOAT
    for _ in range(2):
        tensor.tensor_shape.dim.add(size=1500)
    flags = ("--tensorflow_intra_op_parallelism=1", "--grace_seconds=1")
    with running(base, tmp_path, *flags) as server, server.channel() as channel:
        grpc.channel_ready_future(channel).result(20)
        with until_it_computes(server):
            predict = channel.unary_unary(PREDICTION + "Predict")
            call = predict.future(wire_bytes(request), timeout=90)
        assert not call.done(), "too quick to show anything"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_an_idle_server_stops_at_once_whatever_its_clients_hold_open(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    with running(base, tmp_path, tls=False) as plain, plain.channel() as channel:
        grpc.channel_ready_future(channel).result(20)
        started = time.monotonic()
        plain.process.send_signal(signal.SIGTERM)
        assert plain.process.wait(20) == 0
        assert time.monotonic() - started < 5


def _refused(*flags):
    return subprocess.run(server_command(*flags), capture_output=True, text=True, timeout=60)


def test_an_unknown_flag_ends_it_with_2(tmp_path):
    done = _refused(f"--model_base_path={tmp_path}", "--wish=1")
    assert done.returncode == 2
    assert "--wish" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_model_ends_it_with_2(tmp_path):
    done = _refused(f"--model_base_path={tmp_path}")
    assert done.returncode == 2
    assert "model.onnx" in done.stderr


def test_a_bad_ssl_config_ends_it_with_3_without_showing_the_key(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    config = tmp_path / "ssl.cfg"
    config.write_text("server_key: '-----BEGIN CANARY-----'")
    done = _refused(f"--model_base_path={base}", "--port=0", f"--ssl_config_file={config}")
    assert done.returncode == 3
    assert "CANARY" not in done.stderr


def test_a_taken_port_ends_it_with_6(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    with socket.socket() as taken:
        # Even by a server that would share it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = _refused(f"--model_base_path={base}", "--host=127.0.0.1", f"--port={port}")
    assert done.returncode == 6
    assert "can't listen" in done.stderr


def test_a_socket_that_cannot_be_made_is_named(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    path = tmp_path / "absent" / "socket"
    done = _refused(f"--model_base_path={base}", "--port=0", f"--grpc_socket_path={path}")
    assert done.returncode == 6
    assert f"can't listen on unix:{path}" in done.stderr


@pytest.mark.parametrize("tls", [True, False])
def test_a_unix_socket_has_the_ports_tls(tmp_path, tls):
    """Else whoever may not ask at the port, for want of a certificate, asks there."""
    base = put_model(tmp_path / "m", identity_model())
    path = tmp_path / "socket"
    flags = (f"--grpc_socket_path={path}", "--log_format=json")
    status = wire.GetModelStatusRequest(model_spec={"name": "resnet"})
    with running(base, tmp_path, *flags, tls=tls) as started:
        with grpc.insecure_channel(f"unix:{path}") as plain:
            answered = False
            with contextlib.suppress(grpc.RpcError):
                ask(plain, STATUS, status, wire.GetModelStatusResponse)
                answered = True
            assert answered is not tls
        if tls:
            trusted = grpc.ssl_channel_credentials(started.certificate)
            name = [("grpc.ssl_target_name_override", "localhost")]
            with grpc.secure_channel(f"unix:{path}", trusted, name) as private:
                ask(private, STATUS, status, wire.GetModelStatusResponse)
        for line in started.log.read_text().splitlines():
            json.loads(line)  # a handshake that failed included: it isn't worth a line


def test_it_needs_no_library_of_the_rest_of_casemate():
    forbidden = ("click", "rich", "cryptography", "cbor2", "OpenSSL", "PIL", "onnx", "ml_dtypes")
    code = (
        "import sys\n"
        f"for name in {forbidden}: sys.modules[name] = None\n"
        "import casemate.serving.start, casemate.serving.server, casemate.serving.grpc_server\n"
        "print([n for n in sys.modules if n.startswith('casemate.')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "casemate.encoding" not in done.stdout


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        # A wrong flag is said at once.
        ("casemate.serving.start", ("numpy", "onnxruntime", "google.protobuf")),
        # gRPC comes in beside the loading of models, not before.
        ("casemate.serving.server", ("grpc", "asyncio", "ssl", "PIL", "h11", "tensorflow")),
    ],
)
def test_it_starts_with_no_more_than_it_needs_by_then(module, absent):
    code = f"import sys, {module}; print([n for n in {absent} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_many_requests_at_once_each_get_their_own_answer(channel):
    ask_many(channel)


def test_many_requests_in_batches_each_get_their_own_answer(tmp_path):
    parameters = tmp_path / "batching"
    parameters.write_text("max_batch_size { value: 4 } batch_timeout_micros { value: 2000 }")
    flags = ("--enable_batching", f"--batching_parameters_file={parameters}")
    base = put_model(tmp_path / "m", identity_model(shape=["n", 2], inputs=("a", "b")))
    with running(base, tmp_path, *flags) as batching, batching.channel() as opened:
        ask_many(opened)


def ask_many(channel):
    wrong = []

    def work(number):
        request = good()
        request.inputs["a"].float_val[:] = [number, number]
        for _ in range(20):
            if list(predict(channel, request).outputs["a_out"].float_val) != [number, number]:
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
