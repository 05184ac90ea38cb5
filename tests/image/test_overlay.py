"""A mounted image that can be written to: changes are in memory, and the image stays as it was."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.support.failing_calls import failing, needs_failing_calls, number_of_mount, watched
from tests.support.launches import descendants
from tests.support.trees import KEY, compare_trees, directory, file, seal_folder

from casemate.image.fuse import fuse_available
from casemate.image.mounting import umount
from casemate.image.overlay import WritableMount
from casemate.image.reader import open_image
from casemate.image.seal import seal

_NO_MOUNT = fuse_available()
needs_mounts = pytest.mark.skipif(_NO_MOUNT is not None, reason=f"no mount here: {_NO_MOUNT}")


@pytest.fixture
def mountpoint(tmp_path: Path) -> Path:
    path = tmp_path / "a name, with: marks"
    path.mkdir()
    return path


def is_free(folder: Path) -> bool:
    """Whether nothing is mounted on a folder or below it, and nothing is in it."""
    mounted = Path("/proc/self/mountinfo").read_text()
    name = str(folder).replace(" ", "\\040")
    return name not in mounted and list(folder.iterdir()) == []


@needs_mounts
def test_everything_can_be_changed_and_nothing_of_it_stays(
    tmp_path: Path, mountpoint: Path
) -> None:
    folder, info = seal_folder(tmp_path)
    sealed = info.path.read_bytes()
    with open_image(info.path, KEY) as image, WritableMount(image, mountpoint):
        compare_trees(folder, mountpoint)
        (mountpoint / "bin" / "tool").write_bytes(b"changed")
        (mountpoint / "bin" / "tool").rename(mountpoint / "elsewhere")
        (mountpoint / "new").write_bytes(b"new")
        assert (mountpoint / "elsewhere").read_bytes() == b"changed"
        assert (mountpoint / "new").read_bytes() == b"new"
        assert not (mountpoint / "bin" / "tool").exists()
    assert is_free(mountpoint)
    assert info.path.read_bytes() == sealed
    with open_image(info.path, KEY) as image, WritableMount(image, mountpoint):
        compare_trees(folder, mountpoint)


@needs_mounts
def test_what_is_written_there_raises_no_rights_and_makes_no_devices(
    tmp_path: Path, mountpoint: Path
) -> None:
    info = seal([file("a", b"x")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image, WritableMount(image, mountpoint):
        flags = os.statvfs(mountpoint).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV


@needs_mounts
def test_files_that_are_still_open_do_not_keep_it(tmp_path: Path, mountpoint: Path) -> None:
    info = seal([file("a", b"1" * 5_000_000)], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        with WritableMount(image, mountpoint):
            held = os.open(mountpoint / "a", os.O_RDONLY)
        with pytest.raises(OSError, match="not connected"):
            os.pread(held, 10, 4_000_000)
        with contextlib.suppress(OSError):
            os.close(held)
    assert is_free(mountpoint)


@needs_mounts
def test_whoever_unmounts_it_ends_it(tmp_path: Path, mountpoint: Path) -> None:
    info = seal([file("a", b"1")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        with WritableMount(image, mountpoint) as mount:
            threading.Timer(0.2, umount, [mountpoint]).start()
            began = time.monotonic()
            mount.wait()
            assert time.monotonic() - began < 5
        assert is_free(mountpoint)


@needs_mounts
def test_who_waits_is_told_when_nobody_serves_it_any_more(tmp_path: Path, mountpoint: Path) -> None:
    info = seal([file("a", b"1")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        with WritableMount(image, mountpoint) as mount:
            for server in descendants(os.getpid()):
                os.kill(server, signal.SIGKILL)
            began = time.monotonic()
            mount.wait()
            assert time.monotonic() - began < 10
        assert is_free(mountpoint)


_SCRIPT = """
import sys
from pathlib import Path
from casemate.errors import CasemateError
from casemate.image.overlay import WritableMount
from casemate.image.reader import open_image
from casemate.types import Secret
place = Path(sys.argv[2])
with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    try:
        with WritableMount(image, place):
            (place / "folder" / "a").write_text("changed")
            print((place / "folder" / "a").read_text())
    except CasemateError as error:
        print(error.code, error.got, Path("/proc/self/mountinfo").read_text().count(sys.argv[3]))
"""


def _script(tmp_path: Path, mountpoint: Path) -> list[str]:
    tree = [directory("folder"), file("folder/a", b"sealed")]
    info = seal(tree, KEY, tmp_path / "image")
    return [sys.executable, "-c", _SCRIPT, str(info.path), str(mountpoint), tmp_path.name]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_root_of_a_user_namespace_may_have_it(tmp_path: Path, mountpoint: Path) -> None:
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespace here")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse")
    assert _run([*namespace, *_script(tmp_path, mountpoint)]) == "changed"


@needs_mounts
@needs_failing_calls
@pytest.mark.parametrize("kind", ["tmpfs", "fuse.casemate", "overlay"])
def test_where_a_step_fails_nothing_stays_mounted(
    tmp_path: Path, mountpoint: Path, kind: str
) -> None:
    script = _script(tmp_path, mountpoint)
    assert _run(watched(script, tmp_path / "log")) == "changed"
    code = "image.mount" if kind == "fuse.casemate" else "image.overlay"
    step = number_of_mount(tmp_path / "log", kind)
    said = _run(failing(script, "mount", step, error="ENODEV"))
    assert said.startswith(code)
    assert "No such device" in said
    assert said.endswith(" 0"), "something is still mounted"
    assert is_free(mountpoint)
