"""Block devices of files."""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest
from tests.support.erofs import loop_devices, needs_erofs

from casemate.image.loop import LoopDevice

SIZE = 1 << 20


@pytest.fixture
def ramfs(tmp_path):
    """A file system whose files can only be read through the page cache."""
    done = subprocess.run(
        ["mount", "-t", "ramfs", "ramfs", tmp_path], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no ramfs can be mounted here: {done.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def used_by(path):
    return [each for each, file in loop_devices().items() if file == str(path)]


@needs_erofs
def test_a_device_that_would_keep_a_second_copy_in_memory_is_refused_and_given_back(ramfs):
    path = Path(ramfs, "image")
    path.write_bytes(os.urandom(SIZE))
    with path.open("rb") as file:
        with pytest.raises(OSError, match="past the page cache") as caught:
            LoopDevice(file.fileno(), block=4096, read_ahead=SIZE)
        assert caught.value.errno == errno.EOPNOTSUPP
    for _ in range(500):
        if not used_by(path):
            break
        time.sleep(0.01)
    assert used_by(path) == []
