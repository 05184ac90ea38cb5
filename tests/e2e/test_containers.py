"""``casemate up --containers`` with real containers, as few rights as they say, and podman."""

import json
import subprocess

import pytest
from tests.support import demo_data, podman

from casemate.project.classifier import build_classifier
from casemate.project.containers import LAUNCHER_CAPABILITIES
from casemate.project.programs import answers, casemate_command, pick_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("podman")
    if (reason := podman.why_not(folder / "try")) is not None:
        pytest.skip(reason)
    with podman.environment(folder / "here") as found:
        yield found


def test_broker_and_workload_run_in_containers(variables, tmp_path):
    def casemate(*arguments, status=0):
        done = subprocess.run(
            casemate_command(*arguments), cwd=tmp_path, env=variables, capture_output=True,
            text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    casemate("new", "resnet", "--for", "onnx")
    port, broker = pick_port(0), pick_port(0)
    path = tmp_path / "casemate.toml"
    path.write_text(path.read_text().replace("port = 9000", f"port = {port}"))
    model = tmp_path / "model" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(build_classifier(demo_data.checkpoint()))
    try:
        casemate("up", "--containers", "--engine", "podman", "-s", "localhost", "-p", str(broker))
        seen = casemate(
            "predict", "--server", f"localhost:{port}", "--crt", ".casemate/server.crt",
            "--image", str(demo_data.FOLDER / "cat.jpg"), "--json",
        )  # fmt: skip
        assert json.loads(seen.stdout)["classes"][0]["index"] == 282

        status = json.loads(casemate("status", "--json").stdout)
        assert status["ready"]
        assert [each["secrets"] for each in status["released"]] == [
            "image_key, model_key, ssl_config"
        ]
        assert status["refused"] == []
        assert "workload | casemate launch: the workload runs" in casemate("logs").stdout
        _check_rights(variables)
        again = casemate("up", "--containers", "-p", str(broker), status=2)
        assert "runs already" in again.stderr
    finally:
        casemate("down")
    assert not answers(port)
    left = subprocess.run(
        ["podman", "ps", "--all", "--quiet"], env=variables, capture_output=True, text=True
    )
    assert left.stdout == ""


def _check_rights(variables):
    done = subprocess.run(
        ["podman", "inspect", "casemate-resnet-broker", "casemate-resnet-workload"],
        env=variables, capture_output=True, text=True,
    )  # fmt: skip
    broker, workload = json.loads(done.stdout)
    for each in (broker, workload):
        assert each["HostConfig"]["Privileged"] is False
        assert each["HostConfig"]["ReadonlyRootfs"] is True
    assert not broker["EffectiveCaps"]
    assert sorted(workload["EffectiveCaps"]) == [f"CAP_{name}" for name in LAUNCHER_CAPABILITIES]
