"""Small requests that stand for much: what they make is measured before memory is taken."""

import contextlib
import io
import json
import os
import re
import socket
import threading
import tracemalloc
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image
from tests.support.model_server import running
from tests.support.onnx_models import identity_model, put_model
from tests.support.serving_core import loader, served_core

from casemate.errors import CasemateError, MalformedError
from casemate.serving.batching import Batcher, BatchingOptions
from casemate.serving.examples import examples_from
from casemate.serving.grpc_service import Endpoint
from casemate.serving.lifecycle import Gate, Waits
from casemate.serving.metrics import PrometheusMetrics
from casemate.serving.rest.http import Request
from casemate.serving.rest.json_tensors import parse, write
from casemate.serving.rest.open_inference import OpenInferenceRest
from casemate.serving.rest.tensorflow import TensorFlowRest
from casemate.serving.source import check_folder, list_versions
from casemate.serving.status import Code
from casemate.serving.tensorflow_api import TensorFlowApi
from casemate.serving.wire import tensorflow_serving_pb2 as wire

_MIB = 1 << 20
PICTURE = json.dumps(
    {
        "format": 1,
        "signatures": {
            "serving_default": {"inputs": {"image": {"tensor": "x", "picture": {}}}},
        },
    }
)


@contextlib.contextmanager
def taking(most):
    """The memory that the block takes at its peak has a bound."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def predict(core, tensor, alias="x"):
    request = wire.PredictRequest(model_spec={"name": "m"})
    request.inputs[alias].CopyFrom(tensor)
    return TensorFlowApi(core).predict(request)


def refused(code, ask, *arguments):
    with pytest.raises(CasemateError) as caught:
        ask(*arguments)
    assert caught.value.code == code
    return caught.value


def test_a_long_string_does_not_stand_for_many(tmp_path):
    """The engine would have a string of its own for each of them."""
    core = served_core(tmp_path, identity_model(TensorProto.STRING))
    shape = {"dim": [{"size": 10_000}]}
    short = predict(core, wire.TensorProto(dtype=7, tensor_shape=shape, string_val=[b"a" * 100]))
    assert len(short.outputs["x_out"].string_val) == 10_000

    long = wire.TensorProto(dtype=7, tensor_shape=shape, string_val=[b"a" * 100_000])
    refused("tensor.string-val", predict, core, long)


def test_a_shape_of_a_million_sizes(tmp_path):
    core = served_core(tmp_path, identity_model(shape=("n",)))
    shape = wire.TensorShapeProto.FromString(b"\x12\x00" * 1_000_000)
    tensor = wire.TensorProto(dtype=1, tensor_shape=shape)
    with taking(_MIB):
        refused("serving.request", predict, core, tensor)


def test_a_million_tasks(tmp_path):
    core = served_core(tmp_path, identity_model())
    request = wire.MultiInferenceRequest.FromString(b"\x0a\x00" * 200_000)
    with taking(_MIB):
        refused("serving.request", TensorFlowApi(core).multi_inference, request)


@pytest.mark.parametrize("what", ["examples", "features"])
def test_more_examples_or_features_than_a_request_may_have(monkeypatch, what):
    monkeypatch.setattr(f"casemate.serving.examples.MAX_{what.upper()}", 1000)
    message = wire.Input()
    for index in range(1001 if what == "examples" else 21):
        features = message.example_list.examples.add().features.feature
        for number in range(50 if what == "features" else 0):
            features[f"{index} {number}"].int64_list.value.append(1)
    assert refused("serving.request", examples_from, message).expected.startswith("at most 1000")
    del message.example_list.examples[20:]
    examples_from(message)


def picture(width, height, form="PNG", **options):
    output = io.BytesIO()
    Image.new("1" if form == "PNG" else "L", (width, height)).save(output, form, **options)
    return output.getvalue()


def pictures(tmp_path, *contents, mib=1):
    model = identity_model(TensorProto.UINT8, ("n", 64, 64, 3))
    core = served_core(tmp_path, model, signatures=PICTURE, max_bytes=mib * _MIB)
    tensor = wire.TensorProto(dtype=7, string_val=contents)
    tensor.tensor_shape.dim.add(size=len(contents))
    return predict(core, tensor, "image")


def test_many_small_pictures_are_a_large_tensor(tmp_path):
    assert len(pictures(tmp_path / "few", *[picture(1, 1)] * 80).outputs) == 1
    error = refused("serving.request", pictures, tmp_path / "many", *[picture(1, 1)] * 90)
    assert error.expected == "at most 85 pictures"


def test_the_pixels_of_all_pictures_of_a_request_have_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("casemate.serving.picture.MAX_PIXELS_IN_ALL", 3_000_000)
    one = picture(1000, 1000)
    pictures(tmp_path / "three", one, one, one)
    error = refused("serving.request", pictures, tmp_path / "four", one, one, one, one)
    assert error.got == "1000x1000"


def test_a_jpeg_of_a_thousand_scans(tmp_path):
    """Each is a few bytes, and a pass over all of the picture."""
    made = picture(64, 64, "JPEG", progressive=True)
    pictures(tmp_path / "usual", made)
    start = made.index(b"\xff\xda")
    scan = made[start : made.index(b"\xff", start + 2)]
    bomb = made[:-2] + scan * 1000 + made[-2:]
    assert "scans" in refused("serving.request", pictures, tmp_path / "bomb", bomb).expected


def test_pictures_are_decoded_only_while_somebody_waits(tmp_path):
    model = identity_model(TensorProto.UINT8, ("n", 64, 64, 3))
    core = served_core(tmp_path, model, signatures=PICTURE)
    request = wire.PredictRequest(model_spec={"name": "m"})
    shape = {"dim": [{"size": 1}]}
    # Were it decoded, the answer would be that it is none.
    request.inputs["image"].CopyFrom(
        wire.TensorProto(dtype=7, tensor_shape=shape, string_val=[b"no picture"])
    )
    refused("serving.deadline", TensorFlowApi(core).predict, request, 0.0)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"instances": ["a" * 20_000] + [0] * 2_000}),
        json.dumps({"instances": [[0.5], ["a" * 20_000], *[[0]] * 2_000]}),
        json.dumps({"instances": ['"' + "a" * 20_000 + '"'] + [0] * 2_000}),
        json.dumps({"a": [""] * 5_000, "instances": ["a" * 20_000] + [0] * 2_000}),
    ],
)
def test_a_long_string_among_numbers(tmp_path, body):
    """NumPy would give each number the room of the string: 160 MB of these 28 kB."""
    core = served_core(tmp_path, identity_model(shape=("n",)))
    rest = TensorFlowRest(core, max_json_bytes=_MIB)
    request = Request(method="POST", path="/v1/models/m:predict", headers={}, body=body.encode())
    with taking(8 * _MIB):
        refused("serving.request", rest.answer, request, float("inf"))


def test_a_long_string_among_numbers_of_the_other_interface(tmp_path):
    core = served_core(tmp_path, identity_model(shape=("n",)))
    rest = OpenInferenceRest(core, max_json_bytes=_MIB)
    given = {
        "name": "x",
        "shape": [2_001],
        "datatype": "FP32",
        "data": ["a" * 20_000, *[0] * 2_000],
    }
    body = json.dumps({"inputs": [given]}).encode()
    request = Request(method="POST", path="/v2/models/m/infer", headers={}, body=body)
    with taking(8 * _MIB):
        refused("serving.request", rest.answer, request, float("inf"))


@pytest.mark.parametrize("opening", [b"[]", b"{}"])
def test_more_lists_than_memory_is_meant_for(opening):
    """An empty one takes twenty times what it is written in, an object with a key a hundred."""
    few, many = (b'{"a":[' + b",".join([opening] * n) + b"]}" for n in (100, 70_000))
    parse(few, max_bytes=_MIB)
    refused("serving.json", lambda: parse(many, max_bytes=_MIB))


def test_an_answer_full_of_nan_takes_little_more_than_its_text():
    answer = np.full(200_000, np.nan, np.float32)
    answer[[5, 6, 7]] = np.inf, -np.inf, 0.1
    with taking(16 * _MIB):
        text = write({"a": answer})
    assert text.startswith(b'{"a":[NaN,NaN,NaN,NaN,NaN,Infinity,-Infinity,0.1,NaN,')
    assert np.array_equal(np.array(json.loads(text)["a"], np.float32), answer, equal_nan=True)


class _Same:
    def close(self):
        pass

    def run(self, feeds, outputs):
        return [feeds["x"] for _ in outputs]


@pytest.mark.parametrize(
    ("row", "padding"),
    [
        (np.zeros((1, 1000), np.float32), 999),
        (np.zeros((1, 1 << 20), np.float32), 0),
        (np.array(["a" * 1000], object), 999),
        (np.array(["a" * (4 << 20)], object), 0),
    ],
)
def test_a_large_row_is_not_repeated_to_fill_a_batch(row, padding):
    options = BatchingOptions(
        max_batch_size=1000,
        batch_timeout=0.0,
        max_enqueued_batches=10,
        num_batch_threads=1,
        allowed_batch_sizes=(1000,),
        split_large=False,
    )
    metrics = PrometheusMetrics()
    with contextlib.closing(Batcher("m", _Same(), options, metrics)) as batcher:
        (made,) = batcher.run({"x": row}, ["y"], None)
    assert made.shape == row.shape
    assert b'batch_padding_rows{model_name="m"} %d\n' % padding in metrics.page()


def test_the_bytes_of_requests_that_wait_have_a_bound():
    gate = Gate(10, 1000)
    gate.enter(5000)  # one alone may be as large as a message may
    assert refused("serving.busy", gate.enter, 1).status is Code.RESOURCE_EXHAUSTED
    gate.computed(5000)
    gate.enter(600)
    refused("serving.busy", gate.enter, 600)
    gate.enter(400)


class _Call:
    """What gRPC gives beside a request."""

    def __init__(self):
        self.code = self.details = None
        self.callbacks = []

    def time_remaining(self):
        return 20.0

    def add_callback(self, callback):
        self.callbacks.append(callback)
        return True

    def cancel(self):
        raise AssertionError("nothing here is given up")

    def set_code(self, code):
        self.code = code

    def set_details(self, details):
        self.details = details


def told(core, gate, answer):
    """How a request of 100 bytes ends."""
    waits = Waits(10, 20.0)
    endpoint = Endpoint(core, gate, workers=1, arrivals=waits, departures=waits)
    method = endpoint.counted(wire.PredictRequest, answer, "Predict")
    content = wire.PredictRequest(model_spec={"name": "m" * 96}).SerializeToString()
    call = _Call()
    method.stream_unary(iter([content]), call)
    for each in call.callbacks:  # the client has its answer
        each()
    return call


def test_each_message_counts_among_the_bytes_that_wait(tmp_path):
    core, gate = served_core(tmp_path, identity_model()), Gate(10, 1000)
    gate.enter(850)
    assert told(core, gate, lambda *_: wire.PredictResponse()).code is None
    assert told(core, gate, lambda *_: wire.PredictResponse()).code is None
    gate.enter(100)
    refusal = told(core, gate, lambda *_: wire.PredictResponse())
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_of_an_error_of_its_own_the_server_tells_nothing(tmp_path, caplog):
    """Its text may hold what another client sent, or a path."""

    def fail(*_):
        raise RuntimeError("canary")

    call = told(served_core(tmp_path, identity_model()), Gate(10), fail)
    assert call.code is grpc.StatusCode.INTERNAL
    assert "canary" not in call.details
    assert "canary" not in caplog.text


@pytest.mark.parametrize("name", ["signatures.json", "weights.bin", "assets.extra/any"])
@pytest.mark.parametrize("how", ["pipe", "socket", "link to a device"])
def test_a_version_with_something_else_than_files(tmp_path, name, how):
    """Who opens a pipe waits until somebody writes: no version would ever come again."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "nothing").symlink_to("absent")
    check_folder(tmp_path)
    if how == "pipe":
        os.mkfifo(path)
    elif how == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(MalformedError, match="other than files"):
        check_folder(tmp_path)


def test_such_a_version_is_not_loaded(tmp_path):
    base = put_model(tmp_path, identity_model())
    os.mkfifo(base / "1" / "unused")
    version = list_versions(base)[1]
    with pytest.raises(MalformedError, match="other than files"):
        loader().load("m", version)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("server")
    base = put_model(scratch / "m", identity_model())
    with running(base, scratch, "--rest_api_port=free", name="m", tls=False) as started:
        yield started


def test_a_message_to_ask_how_things_are_is_small(server):
    """Nobody counts or delays these, and they would be parsed to forty times their size."""
    path = "/tensorflow.serving.PredictionService/GetModelMetadata"
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"\x12\x00" * (3 * _MIB), timeout=20)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_message_of_millions_of_messages(server):
    """Each of two bytes, and more than a hundred when it is parsed."""
    path, before = "/tensorflow.serving.PredictionService/Predict", peak(server)
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"\x12\x00" * (6 * _MIB), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 4194304 fields" in caught.value.details()
    assert peak(server) - before < 200 * _MIB


def peak(server):
    """The most memory that a server has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


def test_few_fields_for_who_asks_how_things_are(server):
    path = "/tensorflow.serving.PredictionService/GetModelMetadata"
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(path)(b"\x12\x00" * 100_000, timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 65536 fields" in caught.value.details()


def test_a_body_in_chunks_of_a_byte(server):
    port = int(re.search(r"REST on port (\d+)", server.log.read_text())[1])
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        head = (
            b"POST /v1/models/m:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        body = b'{"instances":[1]}'
        few = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        connection.sendall(head + few + b"0\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
        sender = threading.Thread(target=_send, args=(connection, head + b"1\r\n \r\n" * 60_000))
        sender.start()
        assert b" 400 " in connection.recv(65536)
        sender.join()


def _send(connection, content):
    with contextlib.suppress(OSError):
        connection.sendall(content)
