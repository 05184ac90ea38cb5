"""Clients that others made: ``make test-clients`` installs them and runs this."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.attested import policy_document
from tests.support.attested_servers import CONTRACT, PLACEMENT, minted
from tests.support.model_server import running
from tests.support.onnx_models import identity_model, put_model

from casemate.project.programs import casemate_command, run_program

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv" / "clients" / "bin" / "python"

# Theirs insist on the name, too: it must be one of those that the contract has.
LOCAL = replace(CONTRACT, certificate=replace(PLACEMENT, names=("localhost",)))

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="other makers' clients aren't installed: run make test-clients"
)


@pytest.fixture(scope="module", params=["the owner's certificate", "an attested certificate"])
def server(request, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("clients")
    base = put_model(scratch / "m", identity_model(shape=["n", 4]))
    attested = request.param == "an attested certificate"
    with running(
        base, scratch, "--rest_api_port=free", tls=minted(contract=LOCAL) if attested else True
    ) as started:
        certificate = scratch / "server.crt"
        if attested:  # theirs can't verify evidence, so they get what was verified before
            policy = scratch / "policy.toml"
            policy.write_text(policy_document(LOCAL).render())
            words = ("--policy", str(policy), "--save", str(certificate))
            run_program(casemate_command("verify", "--server", started.address, *words))
        else:
            certificate.write_bytes(started.certificate)
        yield started


def run(script, *arguments):
    done = subprocess.run(
        [PYTHON, HERE / script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def rest_address(server):
    return "localhost:" + re.search(r"REST on port (\d+)", server.log.read_text())[1]


def test_ovmsclient_is_served_as_by_tensorflow_serving(server, tmp_path):
    base, certificate = server.log.parent / "m", server.log.parent / "server.crt"
    with running(base, tmp_path, "--rest_api_port=free", tls=False) as plain:
        told = run("ovms_calls.py", server.address, rest_address(plain), certificate)

    for way in ("grpc", "rest"):
        answer = told[way]
        assert answer["same"]
        assert answer["states"] == {"1": "AVAILABLE"}
        assert answer["refused"] == "ModelNotFoundError"
    # Over REST it looks for OpenVINO's names of fields, which aren't TensorFlow Serving's.
    inputs = told["grpc"]["metadata"]["inputs"]
    assert inputs == {"x": {"shape": [-1, 4], "dtype": "DT_FLOAT"}}


def test_tritonclient_is_served_over_grpc_and_rest(server):
    certificate = server.log.parent / "server.crt"
    told = run("triton_calls.py", server.address, rest_address(server), certificate)

    for way in ("grpc", "rest", "json"):
        answer = told[way]
        assert answer.pop("refused") in ("StatusCode.NOT_FOUND", "404")
        assert answer == {
            "live": True, "ready": True, "model": True, "absent": False, "same": True,
        }  # fmt: skip
    assert told["rest_metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    assert told["grpc_metadata"]["inputs"][0]["shape"] == ["-1", "4"]
