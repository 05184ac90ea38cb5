"""TensorFlow Serving's own client: ``make test-tensorflow-client`` installs it and runs this."""

import json
import subprocess
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from tests.support.model_server import running
from tests.support.onnx_models import as_model, put_model

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PYTHON = ROOT / ".venv" / "tensorflow-client" / "bin" / "python"
SIGNATURES = {
    "serving_default": {"outputs": {"activation_49": "scores"}},
    "classify": {
        "method": "classify", "outputs": {"scores": "scores"}, "classes": ["a", "b", "c", "d"],
    },
    "regress": {"method": "regress", "outputs": {"outputs": "sum"}},
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(),
    reason="TensorFlow Serving's client isn't installed: run make test-tensorflow-client",
)


def model():
    info = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Identity", ["input_1"], ["scores"]),
        helper.make_node("ReduceSum", ["input_1", "axis"], ["sum"], keepdims=1),
    ]
    return as_model(
        nodes,
        [info("input_1", TensorProto.FLOAT, ["n", 4])],
        [info("scores", TensorProto.FLOAT, ["n", 4]), info("sum", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor("axis", TensorProto.INT64, [1], [1])],
    )


def test_tensorflow_servings_own_client_is_served_in_every_method(tmp_path):
    base = put_model(tmp_path / "m", model())
    document = {"format": 1, "signatures": SIGNATURES}
    (base / "1" / "signatures.json").write_text(json.dumps(document))
    with running(base, tmp_path) as server:
        (tmp_path / "server.crt").write_bytes(server.certificate)
        command = [
            PYTHON, HERE / "tensorflow_calls.py", server.address, tmp_path / "server.crt",
            ROOT / "src",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)

    assert told["predict"]["best"] == 3
    assert told["predict"]["same"]
    assert told["predict"]["version"] == 1
    assert told["benchmark"] == 8 * 20
    assert [label for label, _ in told["examples"]["classes"]] == ["a", "b", "c", "d"]
    assert told["examples"]["value"] == pytest.approx(2)
    assert told["examples"]["several"] == ["classification_result", "regression_result"]
    assert told["described"] == {
        "unpacked": True,
        "signatures": ["classify", "regress", "serving_default"],
        "dtype": 1,
        "state": "AVAILABLE",
        "status": 0,
        "reload": "PERMISSION_DENIED",
    }
    assert told["together"]
