"""What a launcher says, and where it can't be said."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

_TELL = """
from casemate.errors import CasemateError
from casemate.launcher import status
import sys
try:
    status.Status(as_json=True, began=0).tell("event", "a sentence")
except CasemateError as error:
    other = {"stdout": "stderr", "stderr": "stdout"}[error.field]
    getattr(sys, other).write(error.code)
"""


@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_what_can_not_be_said_is_an_error_of_the_stream(full):
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    with Path("/dev/full").open("wb") as device:
        done = subprocess.run(
            [sys.executable, "-c", _TELL], **(streams | {full: device}), text=True, check=False
        )
    assert (done.stdout or "") + (done.stderr or "") in {
        "launcher.output",
        "casemate launch: a sentence\nlauncher.output",
    }
    assert done.returncode == 0


@pytest.mark.parametrize("full", ["stdout", "stderr", "both"])
def test_why_it_ends_is_said_as_far_as_it_can_be(full, tmp_path):
    command = [
        sys.executable, "-I", "-m", "casemate.launcher", "--json",
        "--tee", "simulated", "--contract", str(tmp_path / "none"),
    ]  # fmt: skip
    with Path("/dev/full").open("wb") as device:
        streams = {
            name: device if full in (name, "both") else subprocess.PIPE
            for name in ("stdout", "stderr")
        }
        done = subprocess.run(command, **streams, text=True, check=False)
    assert done.returncode == 2
    if full == "stdout":
        assert "[launcher.contract]" in done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
    if full == "stderr":
        assert json.loads(done.stdout)["error"]["code"] == "launcher.contract"
