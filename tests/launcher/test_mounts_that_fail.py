"""A machine where mounting looks possible, and at the attempt isn't: extraction, said and clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.failing_calls import failing, needs_failing_calls, number_of_mount, watched
from tests.support.launches import (
    LaunchSite,
    launch_mounts,
    launch_site,
    needs_busybox,
    root_choices,
)
from tests.support.trees import file, varied

from casemate.image.fuse import fuse_available
from casemate.project.programs import Finished, run_program

pytestmark = [
    needs_busybox,
    needs_failing_calls,
    pytest.mark.skipif(
        "namespace" not in root_choices() or fuse_available() is not None,
        reason="needs /dev/fuse and mount rights",
    ),
]
_SCRIPT = "wc -c < /data/model && cat /etc/tls.key > /dev/null && echo more > /etc/new && echo ran"
_RAN = ["3145728", "ran"]
_VOLUME = [file("model", varied(3 << 20))]


@pytest.fixture
def site(tmp_path: Path):
    with launch_site(tmp_path, ["/bin/sh", "-c", _SCRIPT], volume=_VOLUME) as site:
        yield site


def mount_in(site: LaunchSite, kind: str, *options: str) -> int:
    """The number of a mount in a launch in which nothing fails."""
    log = site.folder / "mounts"
    done = run_program(watched(site.command(*options), log))
    assert done.stdout.split() == _RAN, done.stderr
    return number_of_mount(log, kind)


def launched(site: LaunchSite, command: list[str]) -> Finished:
    before = launch_mounts(site.folder)
    done = run_program(command)
    assert launch_mounts(site.folder) == before, "a mount is left"
    return done


@pytest.mark.parametrize("step", ["the device", "the mount"])
def test_a_volume_that_can_not_be_mounted_after_all_is_extracted(site, step):
    if step == "the device":  # the first time it is asked whether it could be opened
        command = failing(site.command(), "openat", 2, error="EACCES", path="/dev/fuse")
        why = "/dev/fuse: Permission denied"
    else:
        number = mount_in(site, "fuse.casemate")
        command = failing(site.command(), "mount", number, error="ENODEV")
        why = "mount: No such device"
    done = launched(site, command)
    assert done.stdout.split() == _RAN, done.stderr
    assert done.status == 0
    (told,) = (line for line in done.stderr.splitlines() if "image volume: extracting" in line)
    assert told.endswith(f"({why})")


@pytest.mark.parametrize("kind", ["fuse.casemate", "overlay"])
def test_insisting_on_mounts_that_fail_at_the_attempt_starts_nothing(site, kind):
    number = mount_in(site, kind, "--open=mount")
    done = launched(site, failing(site.command("--open=mount"), "mount", number, error="ENODEV"))
    assert done.status == 2
    assert "image.open" in done.stderr
    assert "No such device" in done.stderr
    assert "ran" not in done.stdout


def test_a_root_that_fits_no_memory_and_can_not_be_mounted_after_all_is_refused(site):
    meminfo = site.folder / "meminfo"
    meminfo.write_text("MemAvailable: 40960 kB\n")
    script = 'mount --bind "$0" /proc/meminfo && exec "$@"'
    poor = ["unshare", "--mount", "sh", "-c", script, str(meminfo)]
    log = site.folder / "mounts"
    done = run_program(watched([*poor, *site.command()], log))
    if "mounted lazily at /, through FUSE (only 40 MiB of memory are left)" not in done.stderr:
        pytest.skip("needs the right to mount")
    assert done.stdout.split() == _RAN, done.stderr
    number = number_of_mount(log, "fuse.casemate")
    done = launched(site, [*poor, *failing(site.command(), "mount", number, error="ENODEV")])
    assert done.status == 2
    assert "image.memory" in done.stderr
    assert "ran" not in done.stdout
