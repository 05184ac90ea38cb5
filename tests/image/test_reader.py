from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest
from tests.support.trees import CHUNK, KEY, file, hardlink, seal_folder, symlink, varied

from casemate.errors import CasemateError, MalformedError, UsageError
from casemate.image.file import ImageFile
from casemate.image.reader import open_image
from casemate.image.seal import seal


def test_what_was_sealed_is_read_again(tmp_path: Path) -> None:
    folder, info = seal_folder(tmp_path)
    with open_image(info.path, KEY, info.id) as image:
        for entry in image:
            path = folder / entry.path
            if path.is_file() and not path.is_symlink():
                assert image.read_file(entry) == path.read_bytes()
        assert len(image.entries) == info.entries
        image.verify_all(threads=1)
        image.verify_all(threads=3)


def test_reads_at_random(tmp_path: Path) -> None:
    content = varied(5 * CHUNK + 123)
    info = seal([file("0", b"shift"), file("a", content)], KEY, tmp_path / "image")
    chance = random.Random(1)
    with open_image(info.path, KEY) as image:
        for _ in range(200):
            offset = chance.randrange(len(content) + 10)
            length = chance.choice([0, 1, 511, 4096, CHUNK, CHUNK + 1, 3 * CHUNK])
            assert image.read_file("a", offset, length) == content[offset : offset + length]


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    content = varied(6 * CHUNK)
    info = seal([file("a", content)], KEY, tmp_path / "image")
    wrong: list[int] = []

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            offset = chance.randrange(len(content))
            if image.read_file("a", offset, 70_000) != content[offset : offset + 70_000]:
                wrong.append(offset)

    with open_image(info.path, KEY) as image:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_reading_into_a_buffer_tells_how_much(tmp_path: Path) -> None:
    info = seal([file("a", b"12345"), hardlink("b", "a")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        buffer = bytearray(8)
        assert image.pread_into(image.entry("b"), memoryview(buffer), 2) == 3
        assert buffer == b"345" + bytes(5)
        assert image.pread_into(image.entry("a"), memoryview(buffer), 99) == 0


def test_what_is_not_a_file_cannot_be_read(tmp_path: Path) -> None:
    info = seal([symlink("l", "x")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        for path in ("l", "missing"):
            with pytest.raises(UsageError) as caught:
                image.read_file(path)
            assert caught.value.code == "image.no-entry"


def test_a_header_is_read_without_a_key(tmp_path: Path) -> None:
    _, info = seal_folder(tmp_path)
    image = ImageFile(info.path)
    image.close()
    assert image.id == info.id
    assert image.header.payload_size == info.payload_size


@pytest.mark.parametrize("content", [b"", b"not an image" * 1000], ids=["empty", "other"])
def test_other_files_are_named_as_such(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(MalformedError) as caught:
        open_image(tmp_path / "x", KEY)
    assert caught.value.code == "image.magic"
    assert "6e6f7420" not in str(caught.value), "it may be a key that somebody took for an image"


@pytest.mark.parametrize("name", ["missing", "folder", "pipe"])
def test_what_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    # Nobody may be waited for who would write into a pipe: after a while, somebody does.
    rescue = threading.Timer(5, lambda: os.close(os.open(tmp_path / "pipe", os.O_RDWR)))
    rescue.daemon = True
    rescue.start()
    begin = time.monotonic()
    with pytest.raises(CasemateError) as caught:
        open_image(tmp_path / name, KEY)
    rescue.cancel()
    assert caught.value.code == "image.unreadable"
    assert time.monotonic() - begin < 4


def test_failing_to_open_leaves_no_descriptor_open(tmp_path: Path) -> None:
    info = seal([], KEY, tmp_path / "image")
    info.path.write_bytes(info.path.read_bytes()[:-1])
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(MalformedError):
            open_image(info.path, KEY)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_opening_takes_milliseconds(tmp_path: Path) -> None:
    """Two thousand entries here; `make bench` measures 1 GiB and 8 GiB."""
    info = seal([file(f"d/{i:05}", b"") for i in range(2000)], KEY, tmp_path / "image")
    best = 1.0
    for _ in range(5):
        start = time.perf_counter()
        open_image(info.path, KEY, info.id).close()
        best = min(best, time.perf_counter() - start)
    assert best < 0.05


def test_progress_of_verifying_reaches_the_total(tmp_path: Path) -> None:
    _, info = seal_folder(tmp_path)
    calls: list[tuple[int, int]] = []
    with open_image(info.path, KEY) as image:
        image.verify_all(progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (info.payload_size, info.payload_size)
