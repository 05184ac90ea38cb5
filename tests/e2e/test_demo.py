"""``casemate demo``, as people run it: as they are, in a plain container, and with Ctrl-C."""

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support import demo_data, plain_container
from tests.support.failing_calls import interrupted, needs_failing_calls
from tests.support.launches import descendants, gone_in_time, launch_mounts

from casemate.launcher import linux
from casemate.project.programs import casemate_command

pytestmark = pytest.mark.e2e
COMMAND = casemate_command("demo", "--cache", str(demo_data.FOLDER))
CONTAINED = [sys.executable, plain_container.__file__]
TITLES = (
    "Set up",
    "Prepare the classifier",
    "Seal the root",
    "Start the broker",
    "Launch",
    "Classify",
    "Launch it with a key made in the TEE",
    "Attack",
    "Clean up",
)


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """Where the demo's temporary files go; and nothing may be left there, nor mounted."""
    demo_data.checkpoint(), demo_data.chelsea()
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    mounts = launch_mounts(folder)
    yield
    assert list(folder.iterdir()) == []
    assert launch_mounts(folder) == mounts


def assert_shows_everything(report):
    assert [each["index"] for each in report["classes"]][:4] == [282, 285, 281, 287]
    for each, expected in zip(report["classes"], (0.386, 0.356, 0.169, 0.019), strict=False):
        assert abs(each["probability"] - expected) < 0.02
    assert [(r["exit_code"], r["code"]) for r in report["refusals"]] == [
        (5, "policy.mismatch"),
        (5, "policy.mismatch"),
        (4, "image.chunk-corrupt"),
        (4, "ratls.key"),
    ]
    assert "measurement" in report["refusals"][0]["reason"]
    assert "launch contract" in report["refusals"][1]["reason"]
    assert "was changed" in report["refusals"][2]["reason"]
    assert "sent nothing" in report["refusals"][3]["reason"]


def test_it_shows_the_whole_flow_and_leaves_nothing():
    done = subprocess.run(
        [*COMMAND, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    for number, title in enumerate(TITLES, 1):
        assert f"{number}/9 {title}" in done.stderr
    assert_shows_everything(json.loads(done.stdout))


@pytest.mark.skipif(
    not linux.has_capability(linux.CAP_SYS_ADMIN) or platform.machine() != "x86_64",
    reason="makes a container, for which it needs CAP_SYS_ADMIN, on x86-64",
)
def test_in_a_plain_container_it_says_where_decrypted_files_go():
    done = subprocess.run(
        [*CONTAINED, *COMMAND, "--json"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert_shows_everything(report)
    assert not report["in_memory"]
    assert "--dangerously-allow-disk" in done.stderr
    assert "chroot" in done.stderr


def processes_about(folder):
    """The processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(folder).encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("step", [2, 3, 6, 7])
def test_ctrl_c_leaves_nothing(step, tmp_path):
    output = tmp_path / "output"
    with output.open("ab") as stream:
        process = subprocess.Popen(
            COMMAND, stdout=stream, stderr=stream, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
    deadline = time.monotonic() + 60
    while f"{step}/9" not in output.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    below = descendants(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert gone_in_time(below)
    assert output.read_text().endswith("casemate: interrupted\n")


# Where the demo starts its first program, looks by a fork what the machine allows, launches,
# attacks a second time, and cleans up: each is the moment of a call to the kernel.
MOMENTS = [("clone", 1), ("clone", 2), ("clone", 3), ("clone", 8), ("kill", 1)]


@needs_failing_calls
@pytest.mark.parametrize(("call", "number"), MOMENTS)
def test_ctrl_c_in_the_middle_of_something_leaves_nothing(call, number, tmp_path):
    done = subprocess.run(
        interrupted(COMMAND, call, number), capture_output=True, text=True, timeout=100, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 130, said
    assert done.stderr.endswith("casemate: interrupted\n"), said
    assert "Traceback" not in said
    assert gone_in_time(processes_about(tmp_path))
