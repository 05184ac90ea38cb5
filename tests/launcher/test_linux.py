"""Calls of the kernel, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

_FORKED_BY_A_THREAD = """
import os, threading, time
from casemate.launcher import linux

forked = threading.Event()

def fork():
    if os.fork() == 0:
        time.sleep(1000)
    forked.set()
    time.sleep(1000)

threading.Thread(target=fork, daemon=True).start()
forked.wait()
linux.end_every_child()
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("none is left")
"""


def test_every_child_is_ended_whichever_thread_forked_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKED_BY_A_THREAD],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.stdout, done.stderr) == ("none is left\n", "")
