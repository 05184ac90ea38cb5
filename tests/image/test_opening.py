"""Opened in a folder, by either way, and gone afterwards."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.erofs import why_no_erofs
from tests.support.failing_calls import failing, needs_failing_calls, number_of_mount, watched
from tests.support.trees import KEY, compare_trees, file, seal_folder

from casemate.errors import UsageError
from casemate.image.fuse import fuse_available
from casemate.image.opening import opened_on
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.storage import is_memory
from casemate.image.ways import OpenChoice, Way
from casemate.project.programs import run_program

_SHARED = Path("/dev/shm")
_NO_MOUNT = fuse_available()


@pytest.fixture
def memory() -> Iterator[Path]:
    if not os.access(_SHARED, os.W_OK) or not is_memory(_SHARED):
        pytest.skip("/dev/shm is no memory that can be written to")
    with tempfile.TemporaryDirectory(dir=_SHARED) as folder:
        yield Path(folder)


@pytest.mark.parametrize("choice", [OpenChoice.AUTO, OpenChoice.EXTRACT, OpenChoice.MOUNT])
@pytest.mark.parametrize("there", [True, False], ids=["empty folder", "free name"])
def test_the_tree_is_there_and_then_it_is_not(
    tmp_path: Path, memory: Path, choice: OpenChoice, there: bool
) -> None:
    if choice is OpenChoice.MOUNT and _NO_MOUNT is not None:
        pytest.skip(_NO_MOUNT)
    folder, info = seal_folder(tmp_path)
    target = memory / "open"
    if there:
        target.mkdir()
    with open_image(info.path, KEY) as image:
        with opened_on(image, target, choice, allow_disk=False) as held:
            compare_trees(folder, target)
            assert os.path.ismount(target) == (held.plan.way is Way.MOUNT)
        assert target.exists() == there
        assert not there or list(target.iterdir()) == []


def test_extraction_to_a_disk_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    if is_memory(tmp_path):
        pytest.skip("the tests' own folder lies in memory")
    _, info = seal_folder(tmp_path)
    with open_image(info.path, KEY) as image:
        with (
            pytest.raises(UsageError) as caught,
            opened_on(image, tmp_path / "out", OpenChoice.EXTRACT, allow_disk=False),
        ):
            pass
        assert caught.value.code == "image.disk"
        assert not (tmp_path / "out").exists()
        with opened_on(image, tmp_path / "out", OpenChoice.EXTRACT, allow_disk=True):
            assert (tmp_path / "out" / "bin" / "tool").exists()


@pytest.mark.parametrize("choice", [OpenChoice.EXTRACT, OpenChoice.MOUNT])
def test_a_folder_with_something_in_it_keeps_it(
    tmp_path: Path, memory: Path, choice: OpenChoice
) -> None:
    if choice is OpenChoice.MOUNT and _NO_MOUNT is not None:
        pytest.skip(f"no mount here: {_NO_MOUNT}")
    _, info = seal_folder(tmp_path)
    (memory / "mine").write_text("keep")
    with (
        open_image(info.path, KEY) as image,
        pytest.raises(UsageError, match="not empty"),
        opened_on(image, memory, choice, allow_disk=False),
    ):
        pass
    assert (memory / "mine").read_text() == "keep"


@pytest.mark.skipif(_NO_MOUNT is not None, reason=f"no mount here: {_NO_MOUNT}")
@pytest.mark.parametrize("choice", [OpenChoice.FUSE, OpenChoice.EROFS])
def test_a_mount_is_not_mounted_upon(tmp_path: Path, choice: OpenChoice) -> None:
    """Either would end the other, and one of them stay without anybody who serves it."""
    if choice is OpenChoice.EROFS and why_no_erofs():
        pytest.skip(f"no mount through EROFS here: {why_no_erofs()}")
    _, info = seal_folder(tmp_path)
    place = tmp_path / "mnt"
    with open_image(info.path, KEY) as image, opened_on(image, place, choice, allow_disk=True):
        with (
            open_image(info.path, KEY) as again,
            pytest.raises(UsageError, match="not empty"),
            opened_on(again, place, choice, allow_disk=True),
        ):
            pass
        assert (place / "bin/tool").exists()
    assert not place.exists()


@pytest.mark.skipif(_NO_MOUNT is not None, reason=f"no mount here: {_NO_MOUNT}")
def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    _, info = seal_folder(tmp_path)
    place = tmp_path / "no/such"
    with (
        open_image(info.path, KEY) as image,
        pytest.raises(UsageError) as caught,
        opened_on(image, place, OpenChoice.MOUNT, allow_disk=True),
    ):
        pass
    assert (caught.value.code, caught.value.field) == ("image.destination", str(place))


_SCRIPT = """
import sys
from pathlib import Path
from casemate.image.opening import opened_on
from casemate.image.reader import open_image
from casemate.image.ways import OpenChoice
from casemate.types import Secret
place, writable = Path(sys.argv[2]), sys.argv[3] == "writable"
with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    choice = OpenChoice(sys.argv[4])
    with opened_on(image, place, choice, allow_disk=False, writable=writable) as held:
        mounts = Path("/proc/self/mountinfo").read_text().count(str(place))
        print(held.plan.way, held.plan.reason, mounts, (place / "a").read_text())
"""


@pytest.mark.skipif(_NO_MOUNT is not None, reason=f"no mount here: {_NO_MOUNT}")
@needs_failing_calls
@pytest.mark.parametrize("kind", ["fuse.casemate", "tmpfs", "overlay"])
def test_what_can_not_be_mounted_after_all_is_extracted(
    tmp_path: Path, memory: Path, kind: str
) -> None:
    """At whichever step it fails, the reason is told and nothing stays mounted."""
    info = seal([file("a", b"sealed")], KEY, tmp_path / "image")
    (memory / "open").mkdir()
    how = "read-only" if kind == "fuse.casemate" else "writable"
    script = [sys.executable, "-c", _SCRIPT, str(info.path), str(memory / "open"), how]
    log = tmp_path / "log"
    done = run_program(watched([*script, "auto"], log))
    assert done.stdout.split()[0] == "mount", done.stderr
    number = number_of_mount(log, kind)
    done = run_program(failing([*script, "auto"], "mount", number, error="ENODEV"))
    assert "extract" in done.stdout, done.stderr
    assert done.stdout.split(maxsplit=1)[1].endswith("No such device 0 sealed\n"), done.stdout
    done = run_program(failing([*script, "mount"], "mount", number, error="ENODEV"))
    assert "No such device" in done.stderr
    assert done.status == 1
    assert list((memory / "open").iterdir()) == []
