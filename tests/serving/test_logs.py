"""What the server says of itself, as JSON lines, and what it doesn't say of requests."""

import json
import signal

import grpc
from tests.support.model_server import running
from tests.support.onnx_models import identity_model, put_model

from casemate.serving.wire import tensorflow_serving_pb2 as wire

CANARY = "canary-in-the-request"


def test_every_line_is_json_and_requests_are_there_without_their_content(tmp_path):
    base = put_model(tmp_path / "m", identity_model())
    with running(base, tmp_path, "--log_format=json", "--log_requests", tls=False) as server:
        with server.channel() as channel:
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            request = wire.PredictRequest(model_spec={"name": "resnet"})
            request.inputs["x"].CopyFrom(
                wire.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}]})
            )
            predict(request.SerializeToString(), timeout=20)
            request.model_spec.name = CANARY
            refused = predict.future(request.SerializeToString(), timeout=20)
            assert refused.code() is grpc.StatusCode.NOT_FOUND
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
        text = server.log.read_text()
    assert CANARY not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert all(line.keys() >= {"time", "level", "message"} for line in lines)
    requests = [line for line in lines if "status" in line]
    assert [(line["model"], line["method"], line["status"]) for line in requests] == [
        ("resnet", "Predict", "OK"),
        ("", "Predict", "NOT_FOUND"),
    ]
    assert lines[-1]["message"] == "stopped"
