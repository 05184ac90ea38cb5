"""Whoever runs the machine kills a launch, to find what it leaves: process, mount, plain file."""

import os
import signal
import subprocess
import time

import pytest
from tests.support.erofs import loop_devices, needs_erofs
from tests.support.launches import (
    descendants,
    gone_in_time,
    launch_mounts,
    launch_site,
    needs_busybox,
    own_storage,
    root_choices,
)
from tests.support.trees import file

from casemate.image.fuse_tree import DEVICE_NAME

pytestmark = needs_busybox

# The workload hides a child in a session of its own: that must end too.
SCRIPT = "(trap '' TERM HUP; sleep 1000) & echo ready; while :; do sleep 0.1; done"


def decrypted(storage):
    return list(storage.glob("casemate-root-*"))


@pytest.fixture
def storage(tmp_path, monkeypatch):
    with own_storage(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture(params=root_choices())
def launched(request, tmp_path, storage):
    with launch_site(tmp_path, ["/bin/sh", "-c", SCRIPT], volume=[file("m", b"x")]) as site:
        before = launch_mounts(storage, tmp_path)
        with site.running(f"--root={request.param}") as run:
            assert len(run.below) >= 4  # keeper, init, workload, its child
            if request.param == "chroot":
                assert decrypted(storage), "its plain files aren't where this test looks"
            yield run
            assert gone_in_time((run.process.pid, *run.below)), "a process is left"
            assert launch_mounts(storage, tmp_path) == before
            assert decrypted(storage) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_asks_it_to_stop(launched, number):
    launched.process.send_signal(number)
    launched.process.wait(10)


def test_the_launcher_is_killed(launched):
    launched.process.kill()
    launched.process.wait(10)


def test_the_keeper_is_killed(launched):
    os.kill(launched.below[0], signal.SIGKILL)
    assert launched.process.wait(10) == 1


def test_init_is_killed(launched):
    os.kill(launched.below[1], signal.SIGKILL)
    assert launched.process.wait(10) == 1


def test_the_workload_is_killed(launched):
    os.kill(launched.below[2], signal.SIGKILL)
    assert launched.process.wait(10) == 128 + signal.SIGKILL


def test_launcher_and_workload_are_killed_at_once(launched):
    os.kill(launched.below[2], signal.SIGKILL)
    launched.process.kill()
    launched.process.wait(10)


@pytest.mark.parametrize("root", root_choices())
def test_a_request_to_stop_at_any_moment_of_the_start(tmp_path, storage, root):
    with launch_site(tmp_path, ["/bin/sh", "-c", SCRIPT], volume=[file("m", b"x")]) as site:
        before = launch_mounts(storage, tmp_path)
        began = time.monotonic()
        with site.running(f"--root={root}"):
            start = time.monotonic() - began
        for step in range(16):
            moment = start * step / 14  # the last of them when it runs
            process = subprocess.Popen(
                site.command(f"--root={root}"),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            time.sleep(moment)
            below = descendants(process.pid)
            process.send_signal(signal.SIGINT if step % 2 else signal.SIGTERM)
            try:
                assert process.wait(4) != 0, f"after {moment:.2f} of {start:.2f} s"
            finally:
                process.kill()
            assert gone_in_time(below, 4)
        assert launch_mounts(storage, tmp_path) == before
        assert decrypted(storage) == []


def devices() -> set[str]:
    """Loop devices of mounts of images, by the place of what they are made of."""
    return {each for each, path in loop_devices().items() if path.endswith(DEVICE_NAME)}


@needs_erofs
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_device_of_a_volume_is_left(tmp_path, storage, number):
    if "namespace" not in root_choices():
        pytest.skip("needs mount rights")
    others = devices()
    with (
        launch_site(tmp_path, ["/bin/sh", "-c", SCRIPT], volume=[file("m", b"x")]) as site,
        site.running("--open=erofs") as run,
    ):
        ours = devices() - others
        assert ours, "the images aren't mounted as this test thinks"
        run.process.send_signal(number)
        run.process.wait(10)
        assert gone_in_time((run.process.pid, *run.below))
        for _ in range(500):
            if not devices() & ours:
                break
            time.sleep(0.02)
        assert devices() & ours == set()
