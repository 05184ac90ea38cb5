"""``casemate new``, ``build``, ``up``, ``status``, ``logs``, ``down``, as people use them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from tests.support import demo_data
from tests.support.launches import descendants, storage_options

from casemate.project.classifier import build_classifier
from casemate.project.programs import answers, casemate_command, pick_port

pytestmark = pytest.mark.e2e


def casemate(folder, *arguments, status=0):
    done = subprocess.run(
        casemate_command(*arguments), cwd=folder, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == status, done.stderr
    return done


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    casemate(folder, "new", "resnet", "--for", "onnx")
    path = folder / "casemate.toml"
    port, broker = pick_port(0), pick_port(0)
    text = path.read_text().replace("port = 9000", f"port = {port}")
    path.write_text(text.replace("port = 50051", f"port = {broker}"))
    model = folder / "model" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(build_classifier(demo_data.checkpoint()))
    casemate(folder, "build")
    yield folder, port
    casemate(folder, "down")


def test_up_serves_until_down(built):
    folder, port = built
    trail = folder / ".casemate" / "audit" / "audit.jsonl"
    trail.unlink(missing_ok=True)  # it goes on with each start, those of other tests included
    state = json.loads(casemate(folder, "up", "--detach", "--json", *storage_options()).stdout)
    assert state["ready"]
    assert state["port"] == port
    try:
        seen = casemate(
            folder, "predict", "--server", f"localhost:{port}",
            "--crt", ".casemate/server.crt", "--image", str(demo_data.FOLDER / "cat.jpg"), "--json",
        )  # fmt: skip
        assert json.loads(seen.stdout)["classes"][0]["index"] == 282

        status = json.loads(casemate(folder, "status", "--json").stdout)
        assert status["running"]
        assert status["ready"]
        assert status["certificate_days"] >= 88
        assert set(status["images"]) == {"root", "model"}
        (released,) = status["released"]
        assert released["secrets"] == "image_key, model_key, ssl_config"
        assert status["refused"] == []

        refused = casemate(folder, "up", "--no-build", status=2)
        assert "runs already" in refused.stderr
        logs = casemate(folder, "logs").stdout
        assert "broker   | " in logs
        assert "workload | casemate launch: the workload runs" in logs
        assert _appends(state["pid"])
        assert all(_appends(pid) for pid in descendants(state["pid"]))
    finally:
        assert "stopped" in casemate(folder, "down").stderr
    assert not answers(port)
    assert not json.loads(casemate(folder, "status", "--json").stdout)["running"]
    assert "nothing runs" in casemate(folder, "down").stderr


def test_where_the_broker_dies_up_says_so_and_ends_the_workload(built):
    folder, port = built
    up = subprocess.Popen(
        casemate_command("up", "--no-build", "--json", *storage_options()),
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert json.loads(up.stdout.readline())["ready"]
        os.kill(_child_running(up.pid, "broker"), signal.SIGKILL)
        _, stderr = up.communicate(timeout=30)
    finally:
        up.kill()
        up.wait()
    assert up.returncode == 6
    assert "the broker ended with status -9" in stderr
    assert "casemate logs broker" in stderr
    assert not answers(port)


def test_up_of_an_unbuilt_project_says_what_to_do(built, tmp_path):
    folder, _ = built
    shutil.copy(folder / "casemate.toml", tmp_path)
    done = casemate(tmp_path, "up", "--no-build", status=2)
    assert "casemate build" in done.stderr


def _appends(pid):
    """Several write to the log, and what sendfile(2) sends would overwrite the others."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # some end while we look
        flags = Path(f"/proc/{pid}/fdinfo/2").read_text().split("flags:")[1].split()[0]
        return bool(int(flags, 8) & os.O_APPEND)
    return True


def _child_running(parent, command):
    for pid in descendants(parent):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # some end while we look
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if [b"casemate.cli.start", command.encode()] == arguments[3:5]:
                return pid
    raise AssertionError("no such child")
