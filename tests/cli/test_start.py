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


def test_ctrl_c_waits_while_a_launcher_starts(tmp_path):
    """Python drops some of what it raises while it imports; 1 in 1,000 launches ran on."""
    program = tmp_path / "python"
    shows = "import signal\nprint(*signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    program.write_text(f"#!{sys.executable} -I\n{shows}")
    program.chmod(0o755)
    command = f"import sys; from casemate.cli.start import main; sys.executable = {str(program)!r}"
    done = subprocess.run(
        [sys.executable, "-c", f"{command}; main()", "launch"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.stdout == "2\n", "SIGINT"


def test_a_launcher_heeds_the_ctrl_c_that_waited(tmp_path):
    command = [sys.executable, "-I", "-m", "casemate.launcher", "--contract", str(tmp_path / "no")]
    interrupted = f"""
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
os.kill(os.getpid(), signal.SIGINT)
os.execv({command[0]!r}, {command!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", interrupted], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (130, "casemate launch: interrupted\n")


def test_a_launcher_that_is_interrupted_while_it_makes_a_class_says_no_more(tmp_path):
    """Python makes another error of it there."""
    (tmp_path / "resource.py").write_text(  # in the place of a library
        "import os, signal\n"
        "class Name:\n"
        "    def __set_name__(self, owner, name):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "class Owner:\n"
        "    name = Name()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "casemate.launcher", "--contract", str(tmp_path / "no")],
        capture_output=True, text=True, timeout=30, env={**os.environ, "PYTHONPATH": tmp_path},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "casemate launch: interrupted\n")
