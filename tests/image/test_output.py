from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.disks import mounted
from tests.support.trees import CHUNK, KEY, file, varied

from casemate.errors import UsageError
from casemate.image.output import Output
from casemate.image.seal import seal

MIB = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_what_threads_write_lies_where_it_should(tmp_path: Path) -> None:
    content = varied(80 * MIB + 5)
    pieces = range(0, len(content), MIB)
    with opened(tmp_path / "file") as descriptor:
        output = Output(descriptor, len(content))

        def work(first: int) -> None:
            for start in pieces[first::3]:
                output.make_room()
                piece = memoryview(content)[start : start + MIB]
                output.write([piece[: CHUNK + 1], piece[CHUNK + 1 :]], start)

        threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (tmp_path / "file").read_bytes() == content


def test_room_is_there_before_anything_is_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "mnt", "tmpfs") as folder, opened(folder / "file") as descriptor:
        Output(descriptor, 70 * MIB + 1).make_room()
        status = os.fstat(descriptor)
        assert status.st_size == 70 * MIB + 1
        assert status.st_blocks * 512 >= status.st_size


def test_a_full_disk_is_known_before_anything_is_read(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    with mounted(tmp_path / "mnt", "tmpfs", "-o", "size=2m") as folder:
        with pytest.raises(UsageError) as caught:
            seal(
                [file("a", varied(3 * MIB))],
                KEY,
                folder / "image",
                threads=1,
                progress=lambda *now: done.append(now),
            )
        assert list(folder.iterdir()) == [], "nothing may be left behind"
        assert seal([file("a", varied(MIB))], KEY, folder / "image").path.exists()
    assert caught.value.code == "image.unwritable"
    assert "No space left" in str(caught.value.got)
    assert done == [], "it is known before anything is read"


_LIMITED = """
import resource, sys
from pathlib import Path
from casemate.errors import UsageError
from casemate.image.seal import seal
from casemate.image.tree import tree_from_directory
from casemate.types import Secret

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
folder, done = Path(sys.argv[1]), []
try:
    seal(
        tree_from_directory(folder / "tree"),
        Secret(bytes(32)),
        folder / "image",
        threads=1,
        progress=lambda *now: done.append(now),
    )
except UsageError as error:
    print(error.code, done)
"""


def test_a_file_that_may_not_get_so_long_is_refused_as_early(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a").write_bytes(varied(3 * MIB))
    command = [sys.executable, "-c", _LIMITED, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told == "image.unwritable []\n"
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_where_no_room_can_be_had_beforehand_the_same_file_is_written(tmp_path: Path) -> None:
    tree = (file("a", varied(40 * CHUNK + 7)), file("b", b"b"))
    usual = seal(tree, KEY, tmp_path / "image")
    with mounted(tmp_path / "mnt", "ramfs") as folder:
        with opened(folder / "file") as descriptor:
            Output(descriptor, MIB).make_room()
            assert os.fstat(descriptor).st_size == 0, "this file system can; take another"
        there = seal(tree, KEY, folder / "image")
        assert there.path.read_bytes() == usual.path.read_bytes()
