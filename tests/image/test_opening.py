"""Opened in a folder, by either way, and gone afterwards."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.trees import KEY, compare_trees, seal_folder

from casemate.errors import UsageError
from casemate.image.fuse import fuse_available
from casemate.image.opening import opened_on
from casemate.image.reader import open_image
from casemate.image.storage import is_memory
from casemate.image.ways import OpenChoice, Way

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


def test_a_folder_with_something_in_it_keeps_it(tmp_path: Path, memory: Path) -> None:
    _, info = seal_folder(tmp_path)
    (memory / "mine").write_text("keep")
    with (
        open_image(info.path, KEY) as image,
        pytest.raises(UsageError, match="not empty"),
        opened_on(image, memory, OpenChoice.EXTRACT, allow_disk=False),
    ):
        pass
    assert (memory / "mine").read_text() == "keep"
