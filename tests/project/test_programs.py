"""Our programs as processes: none is left behind, and failures say what was printed."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from casemate.errors import UnavailableError
from casemate.project.programs import (
    Services,
    pick_port,
    reserved_port,
    run_program,
    undisturbed,
)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_finished_program_gives_its_status_and_output():
    done = run_program([sys.executable, "-c", "import sys; print('out'); sys.exit('err')"])

    assert (done.status, done.stdout, done.stderr) == (1, "out\n", "err\n")


def test_a_program_that_hangs_is_ended():
    with pytest.raises(UnavailableError, match="took too long"):
        run_program([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)


def test_services_end_with_the_block_that_started_them(tmp_path):
    with Services() as services:
        service = services.start(
            "sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], log=tmp_path / "log"
        )
        assert _alive(service.process.pid)

    assert not _alive(service.process.pid)


def test_a_service_that_ends_early_tells_its_last_words(tmp_path):
    with Services() as services:
        service = services.start(
            "broken", [sys.executable, "-c", "raise SystemExit('no such policy')"],
            log=tmp_path / "log",
        )  # fmt: skip
        with pytest.raises(UnavailableError, match="no such policy"):
            service.wait_for(lambda: False, timeout=10)


def test_services_die_when_their_starter_is_killed(tmp_path):
    script = textwrap.dedent(
        f"""
        import sys, time, pathlib
        from casemate.project.programs import Services
        with Services() as services:
            command = [sys.executable, "-c", "import time; time.sleep(60)"]
            log = pathlib.Path({str(tmp_path / "log")!r})
            service = services.start("sleeper", command, log=log)
            print(service.process.pid, flush=True)
            time.sleep(60)
        """
    )
    starter = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())

    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdout.close()

    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(pid)


def test_a_taken_port_is_not_picked():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]

        assert pick_port(taken) != taken


def test_an_interruption_waits_for_the_end_also_where_other_threads_run():
    done, ended = threading.Event(), False
    thread = threading.Thread(target=done.wait, args=(30,))
    thread.start()
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            ended = True
    finally:
        done.set()
        thread.join()

    assert ended
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interruption_is_heeded_also_where_the_work_failed():
    with pytest.raises(KeyboardInterrupt), undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        raise ValueError


def test_a_reserved_port_is_nobody_elses_though_nothing_listens_there():
    with reserved_port(0) as first, reserved_port(first) as second:
        assert second != first
        assert pick_port(first) == first, "nothing listens there yet"
    with reserved_port(first) as again:
        assert again == first
