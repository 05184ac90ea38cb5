"""SavedModels in the server, by TensorFlow: ``make test-tensorflow`` installs it and runs this."""

import json
import re
import ssl
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from tests.support.model_server import running

from casemate.serving.dtypes import BY_NUMBER
from casemate.serving.tensors import decode_tensor, encode_tensor
from casemate.serving.wire import tensorflow_serving_pb2 as wire

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "tensorflow" / "bin" / "python"
CLIENT = ROOT / ".venv" / "tensorflow-client" / "bin" / "python"
PREDICT = "/tensorflow.serving.PredictionService/Predict"
PREFIX = "tensorflow/serving/"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"

pytestmark = pytest.mark.skipif(
    not (PYTHON.parents[1] / ".stamp").exists(),
    reason="TensorFlow isn't installed: run make test-tensorflow",
)


def save(folder, factor, *extra):
    script = Path(__file__).with_name("make_saved_model.py")
    command = [PYTHON, script, folder, str(factor), *extra]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    made = tmp_path_factory.mktemp("saved") / "resnet"
    save(made / "1", 2)
    return made


@pytest.fixture(scope="module")
def server(base):
    with running(base, base.parent, "--rest_api_port=free", python=PYTHON) as started:
        yield started


@pytest.fixture(scope="module")
def channel(server):
    with server.channel() as opened:
        yield opened


def predict(channel, signature, inputs, **more):
    request = wire.PredictRequest(
        model_spec={"name": "resnet", "signature_name": signature}, inputs=inputs, **more
    )
    method = channel.unary_unary(
        PREDICT, wire.PredictRequest.SerializeToString, wire.PredictResponse.FromString
    )
    return method(request, timeout=60)


def array_of(tensor):
    return decode_tensor(tensor, name="y", max_bytes=1 << 20, raw_strings=True)


def strings(*values):
    return encode_tensor(np.array(values, object), BY_NUMBER[wire.DT_STRING])


def floats(array):
    return encode_tensor(np.asarray(array, "<f4"), BY_NUMBER[wire.DT_FLOAT])


def test_the_references_call_is_answered(channel):
    reply = predict(channel, "serving_default", {"input_1": floats([[0, 1, 3, 2]])})

    scores = reply.outputs["activation_49"].float_val
    assert list(scores) == [0, 2, 6, 4]
    assert np.argmax(scores) == 2
    assert reply.model_spec.version.value == 1


@pytest.mark.skipif(
    not (CLIENT.parents[1] / ".stamp").exists(),
    reason="TensorFlow Serving's client isn't installed: run make test-tensorflow-client",
)
def test_tensorflow_servings_own_client_is_answered(base, tmp_path):
    script = ROOT / "tests" / "clients" / "saved_model_calls.py"
    with running(base, tmp_path, tls=False, python=PYTHON) as server:
        command = [CLIENT, script, f"127.0.0.1:{server.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "best": 2, "colour": [2, 0], "joined": ["catcat", "redred"],
    }  # fmt: skip


def test_another_signature_takes_strings_and_each_table_has_its_own_words(channel):
    reply = predict(channel, "words", {"words": strings(b"cat", b"green", b"\xff\x00")})

    assert array_of(reply.outputs["animal"]).tolist() == [0, -1, -1]
    assert array_of(reply.outputs["colour"]).tolist() == [2, 1, -1]
    assert array_of(reply.outputs["joined_bytes"]).tolist() == [
        b"catcat", b"greengreen", b"\xff\x00\xff\x00",
    ]  # fmt: skip


def test_only_the_outputs_asked_for_come(channel):
    reply = predict(channel, "words", {"words": strings(b"cat")}, output_filter=["colour"])

    assert list(reply.outputs) == ["colour"]


def test_every_element_type_comes_back_as_it_went(channel):
    given = {}
    for element in BY_NUMBER.values():
        name = element.name.removeprefix("DT_").lower()
        name = {"float": "float32", "double": "float64", "half": "float16"}.get(name, name)
        values = [b"a", b"\xff"] if element.number == wire.DT_STRING else [0, 1]
        given[name] = encode_tensor(np.array(values, element.dtype), element)

    reply = predict(channel, "types", {f"x_{name}": each for name, each in given.items()})

    assert {name: reply.outputs[f"y_{name}"] for name in given} == given


def test_the_metadata_is_the_models_own(channel):
    method = channel.unary_unary(
        METADATA,
        wire.GetModelMetadataRequest.SerializeToString,
        wire.GetModelMetadataResponse.FromString,
    )
    request = wire.GetModelMetadataRequest(
        model_spec={"name": "resnet"}, metadata_field=["signature_def"]
    )
    packed = method(request, timeout=20).metadata["signature_def"].value

    described = wire.SignatureDefMap.FromString(packed).signature_def
    assert sorted(described) == ["classify", "regress", "serving_default", "types", "words"]
    info = described["serving_default"].inputs["input_1"]
    assert info.name == "serving_default_input_1:0"
    assert [dim.size for dim in info.tensor_shape.dim] == [-1, 4]
    assert described["words"].method_name == "tensorflow/serving/predict"


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("serving_default", {"input_1": floats([[1, 2]])}),
        ("serving_default", {"words": strings(b"cat")}),
        ("words", {"words": floats([1])}),
    ],
)
def test_inputs_that_dont_fit_are_refused(channel, signature, inputs):
    with pytest.raises(grpc.RpcError) as raised:
        predict(channel, signature, inputs)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


EXAMPLES = wire.Input()
for values in ([0.5, 1.0], [2.0, 3.0]):
    EXAMPLES.example_list.examples.add().features.feature["x"].float_list.value.extend(values)


def about(channel, method, request, reply_type):
    path = f"/tensorflow.serving.PredictionService/{method}"
    call = channel.unary_unary(path, type(request).SerializeToString, reply_type.FromString)
    return call(request, timeout=60)


def test_examples_go_in_whole_as_with_tensorflow_serving(channel):
    spec = {"name": "resnet", "signature_name": "classify"}
    request = wire.ClassificationRequest(model_spec=spec, input=EXAMPLES)
    reply = about(channel, "Classify", request, wire.ClassificationResponse)
    rows = [[(c.label, c.score) for c in row.classes] for row in reply.result.classifications]
    assert rows == [[("cat", 1), ("dög", 2)], [("cat", 4), ("dög", 6)]]

    spec = {"name": "resnet", "signature_name": "regress"}
    asked = wire.RegressionRequest(model_spec=spec, input=EXAMPLES)
    answered = about(channel, "Regress", asked, wire.RegressionResponse)
    assert [each.value for each in answered.result.regressions] == [1.5, 5]

    tasks = [
        {"model_spec": {"name": "resnet", "signature_name": name}, "method_name": PREFIX + name}
        for name in ("classify", "regress")
    ]
    both = wire.MultiInferenceRequest(tasks=tasks, input=EXAMPLES)
    results = about(channel, "MultiInference", both, wire.MultiInferenceResponse).results
    assert results[0].classification_result == reply.result
    assert results[1].regression_result == answered.result


def test_over_rest_examples_go_in_whole_too(server):
    port = re.search(r"REST on port (\d+)", server.log.read_text())[1]
    body = {
        "signature_name": "regress",
        "context": {"x": [1.5, 1]},
        "examples": [{}, {"x": [2, 3.0]}],
    }
    request = urllib.request.Request(
        f"https://localhost:{port}/v1/models/resnet:regress", json.dumps(body).encode()
    )
    trusted = ssl.create_default_context(cadata=server.certificate.decode())
    with urllib.request.urlopen(request, context=trusted, timeout=60) as response:
        assert json.load(response) == {"results": [2.5, 5.0]}


def test_over_rest_text_is_text_and_bytes_are_base64(base, tmp_path):
    with running(base, tmp_path, "--rest_api_port=free", tls=False, python=PYTHON) as server:
        port = server.log.read_text().partition("REST on port ")[2].partition(")")[0]
        body = json.dumps({"signature_name": "words", "inputs": {"words": ["red"]}}).encode()
        address = f"http://127.0.0.1:{port}/v1/models/resnet:predict"
        with urllib.request.urlopen(address, body, timeout=30) as reply:
            answer = json.load(reply)

    assert answer == {
        "outputs": {"animal": [-1], "colour": [0], "joined_bytes": [{"b64": "cmVkcmVk"}]}
    }


def test_a_new_version_takes_over_and_the_old_one_answers_until_then(tmp_path):
    base = tmp_path / "resnet"
    save(base / "1", 2)
    flags = ("--file_system_poll_wait_seconds=1", "--enable_batching")
    with running(base, tmp_path, *flags, python=PYTHON) as server, server.channel() as channel:
        predict(channel, "", {"input_1": floats([[1, 1, 1, 1]])})
        saving = threading.Thread(target=save, args=(base / "2", 5))
        saving.start()
        deadline, seen = time.monotonic() + 60, {}
        while 2 not in seen and time.monotonic() < deadline:
            reply = predict(channel, "", {"input_1": floats([[1, 1, 1, 1]])})
            value = reply.outputs["activation_49"].float_val[0]
            seen.setdefault(reply.model_spec.version.value, set()).add(value)
        saving.join()

    assert seen == {1: {2.0}, 2: {5.0}}


def _start(base, scratch, *flags):
    with running(base, scratch, *flags, python=PYTHON) as server, server.channel() as channel:
        return predict(channel, "read", {"path": strings_scalar(b"/etc/hostname")})


def strings_scalar(value):
    return encode_tensor(np.array(value, object), BY_NUMBER[wire.DT_STRING])


def test_a_model_that_reads_files_is_refused_unless_its_owner_allows_that(tmp_path):
    base = tmp_path / "resnet"
    save(base / "1", 2, "unsafe")

    with pytest.raises(AssertionError, match=r"serving\.operation"):
        _start(base, tmp_path)
    reply = _start(base, tmp_path, "--allowed_operations=ReadFile")
    assert array_of(reply.outputs["content"]).item() == Path("/etc/hostname").read_bytes()


def test_a_model_that_remembers_requests_is_refused(tmp_path):
    base = tmp_path / "resnet"
    save(base / "1", 2, "stateful")

    with pytest.raises(AssertionError, match="AssignAddVariableOp"):
        _start(base, tmp_path)


def test_every_operation_that_is_named_is_one_of_tensorflows():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "import tensorflow\n"
        "from tensorflow.python.framework import op_def_registry\n"
        "from casemate.serving.saved_model import operations as o\n"
        "named = o.COMPUTING | o.REMEMBERING | o.SAVING | set(o.ASSET_READERS)\n"
        "named |= set(o.CHECKPOINT_READERS)\n"
        "print([each for each in named if op_def_registry.get(each) is None])\n"
    )
    done = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout.strip() == "[]", done.stderr[-2000:]
