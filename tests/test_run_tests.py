"""``tools/run-tests``, on a suite of small files at the places of the real one's."""

import importlib.machinery
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "run-tests"
PARTS = ("tests/test_of_no_list.py", "tests/cli/test_any.py", "tests/serving/test_any.py")
USUAL = "def {name}():\n    with open('ran', 'a') as log: log.write('{place}\\n')\n"
FAILING = "def test(): assert 0, 'a fault of {}'\n"
WAITING = (
    "import pathlib, time\n\n"
    "def test():\n"
    "    pathlib.Path('{0}.begun').touch()\n"
    "    try: time.sleep(60)\n"
    "    finally:\n"
    "        time.sleep({1})\n"
    "        pathlib.Path('{0}.tidy').touch()\n"
)


def lists():
    """The tool's own lists: the second half, and what runs alone."""
    loader = importlib.machinery.SourceFileLoader("run_tests", str(TOOL))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_tests", loader))
    loader.exec_module(module)
    return module._SECOND_HALF, module._ALONE


@pytest.mark.parametrize("place", [each for found in lists() for each in found])
def test_what_the_lists_name_is_there(place):
    name, _, test = place.partition("::")
    assert (TOOL.parents[1] / name).exists()
    assert not test or f"def {test}(" in (TOOL.parents[1] / name).read_text()


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A folder with the tool, and a test at each place that it names."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "run-tests").write_bytes(TOOL.read_bytes())
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    for place in (*PARTS, *(each for found in lists() for each in found)):
        name, _, test = place.partition("::")
        file = tmp_path / name if name.endswith(".py") else tmp_path / name / "test_it.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as stream:
            stream.write(USUAL.format(name=test or "test_it", place=place))
    return tmp_path


def started(suite):
    return subprocess.Popen(
        [sys.executable, suite / "tools" / "run-tests"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        process_group=0,
    )  # fmt: skip


def test_each_test_runs_once(suite):
    process = started(suite)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    second, alone = lists()
    assert sorted((suite / "ran").read_text().split()) == sorted({*PARTS, *second, *alone})


def test_a_file_of_the_lists_that_is_gone_keeps_no_other_from_running(suite):
    second, alone = lists()
    gone = next(each for each in alone if each.endswith(".py"))
    (suite / gone).unlink()
    process = started(suite)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    ran = (suite / "ran").read_text().split()
    assert sorted(ran) == sorted({*PARTS, *second, *alone} - {gone})


@pytest.mark.parametrize("part", PARTS)
def test_a_failure_in_any_part_counts_and_is_shown_and_the_rest_runs_all_the_same(suite, part):
    (suite / part).write_text(FAILING.format(part))
    process = started(suite)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"a fault of {part}" in output
    ran = (suite / "ran").read_text().split()
    assert all((each in ran) is (each != part) for each in PARTS)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: one half at a time")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_lets_both_halves_tidy_up(suite, number):
    for name, part, seconds in (("a", PARTS[0], 0.1), ("b", PARTS[1], 1)):
        (suite / part).write_text(WAITING.format(name, seconds))
    process = started(suite)
    deadline = time.monotonic() + 30
    while not ((suite / "a.begun").exists() and (suite / "b.begun").exists()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal does with Ctrl-C
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 2, output
    assert output.count("KeyboardInterrupt") >= 2
    assert (suite / "a.tidy").exists()
    assert (suite / "b.tidy").exists()
    assert "for itself" not in output, "what comes after them isn't begun"
