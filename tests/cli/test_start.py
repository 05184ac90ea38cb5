"""Ctrl-C from the first moment on: no traceback, whatever is just being imported."""

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

# In the place of a library: Ctrl-C comes while it is imported.
LIBRARY = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(7)\n"


def interrupted_while(imports, folder, *, ignored=False):
    """``casemate contract show``, as it is installed, and what came of it."""
    (folder / f"{imports}.py").write_text(LIBRARY)
    (script,) = entry_points(group="console_scripts", name="casemate")
    command = f"from {script.module} import {script.attr} as main; main()"
    before = signal.getsignal(signal.SIGINT)
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return subprocess.run(
            [sys.executable, "-c", command, "contract", "show", "absent"],
            capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": folder},
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("imports", "status", "said"),
    [("click", -signal.SIGINT, ""), ("cbor2", 130, "\ncasemate: interrupted\n")],
    ids=["before commands are there", "within a command"],
)
def test_ctrl_c_shows_no_traceback(tmp_path, imports, status, said):
    done = interrupted_while(imports, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


@pytest.mark.parametrize("imports", ["click", "cbor2"])
def test_where_it_is_to_be_ignored_it_is(tmp_path, imports):
    """As by whoever starts it in the background of a script."""
    assert interrupted_while(imports, tmp_path, ignored=True).returncode == 7
