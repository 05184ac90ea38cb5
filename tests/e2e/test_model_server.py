"""The real classifier behind the real server, asked as the reference's client asks."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image
from tests.support import demo_data
from tests.support.model_server import running
from tests.support.onnx_models import put_model

from casemate.project.classifier import build_classifier
from casemate.project.programs import casemate_command
from casemate.serving.wire import tensorflow_serving_pb2 as wire

pytestmark = pytest.mark.e2e
REFERENCE = {282: 0.386, 285: 0.356, 281: 0.169, 287: 0.019}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("classifier")
    base = put_model(scratch / "resnet", build_classifier(demo_data.checkpoint()))
    with running(base, scratch) as started:
        (scratch / "server.crt").write_bytes(started.certificate)
        yield started


def test_the_references_stock_client_call_is_answered(server):
    with Image.open(demo_data.chelsea()) as picture:
        resized = picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
    pixels = np.asarray(resized, np.float32) / 255.0
    request = wire.PredictRequest()
    request.model_spec.name = "resnet"
    request.model_spec.signature_name = "serving_default"
    tensor = request.inputs["input_1"]
    tensor.dtype = 1
    for size in (1, 224, 224, 3):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = pixels[None].tobytes()

    with server.channel() as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=wire.PredictRequest.SerializeToString,
            response_deserializer=wire.PredictResponse.FromString,
        )
        reply = predict(request, timeout=30)

    scores = list(reply.outputs["activation_49"].float_val)
    assert len(scores) == 1000
    assert int(np.argmax(scores)) in (281, 282, 285)
    assert max(scores) > 0.2
    assert [dim.size for dim in reply.outputs["activation_49"].tensor_shape.dim] == [1, 1000]


def run(server, *arguments):
    crt = server.log.parent / "server.crt"
    command = casemate_command(
        "predict", "--server", server.address, "--crt", str(crt),
        "--image", str(demo_data.chelsea()), *arguments,
    )  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_casemate_predict_gives_the_reference_figures(server):
    done = run(server, "--json", "--top", "4")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["model"], report["version"]) == ("resnet", 1)
    assert [each["index"] for each in report["classes"]] == list(REFERENCE)
    assert report["classes"][0]["name"] == "tiger cat"
    for each in report["classes"]:
        assert each["probability"] == pytest.approx(REFERENCE[each["index"]], abs=0.02)


def test_casemate_predict_prints_one_class_a_line_into_a_pipe(server):
    done = run(server, "--resize", "stretch")

    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert any("tiger cat" in line for line in lines)


def test_casemate_predict_wants_a_reason_to_trust(server):
    done = subprocess.run(
        casemate_command(
            "predict", "--server", server.address, "--image", str(demo_data.chelsea())
        ),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--crt" in done.stderr


def test_casemate_predict_names_a_model_that_is_not_there(server):
    done = run(server, "--model", "other")

    assert done.returncode == 2
    assert "--model" in done.stderr


def test_casemate_serve_passes_its_flags_to_the_server():
    helped = subprocess.run(
        casemate_command("serve", "--help"), capture_output=True, text=True, timeout=60, check=False
    )
    wrong = subprocess.run(
        casemate_command("serve", "--model_base_path=/nowhere", "--wish"),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (helped.returncode, wrong.returncode) == (0, 2)
    assert "--ssl_config_file" in helped.stdout
    assert "--wish" in wrong.stderr
