"""P11 where the kernel reads through EROFS: an image's bytes, or an error.

A request that fails must not come out as zeros, nor a part of it as the whole (docs/adr/0021).
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.erofs import needs_erofs
from tests.support.launches import descendants, gone_in_time
from tests.support.trees import CHUNK, KEY, file, varied

from casemate.errors import CasemateError
from casemate.image.erofs_mount import ErofsMount
from casemate.image.format import PAYLOAD_START
from casemate.image.reader import open_image
from casemate.image.seal import seal

pytestmark = needs_erofs
CHUNKS = 160
CONTENT = varied(CHUNKS * CHUNK)
PAGE = 4096


@contextmanager
def mounted(path: Path, place: Path, errors: list[CasemateError]) -> Iterator[int]:
    """The mounted file, open."""
    place.mkdir()
    with (
        open_image(path, KEY) as image,
        ErofsMount(image, place, on_error=errors.append),
        (place / "a").open("rb", buffering=0) as file_,
    ):
        yield file_.fileno()


def read(descriptor: int, size: int, offset: int) -> bytes | None:
    """What is read, which must be the source; None for an error, which must be EIO."""
    try:
        found = os.pread(descriptor, size, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None
    assert found == CONTENT[offset : offset + len(found)], f"wrong bytes at {offset}"
    return found


@pytest.mark.parametrize("size", [PAGE, CHUNK, 1 << 20])
@pytest.mark.parametrize("changed", [0, 3, 15, 16, 70, CHUNKS - 1])
def test_a_changed_chunk_is_an_error_and_never_zeros(
    tmp_path: Path, size: int, changed: int
) -> None:
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        start = PAYLOAD_START + image.entry("a").offset
    with info.path.open("r+b") as host:
        host.seek(start + changed * CHUNK + 77)
        host.write(b"!")
    errors: list[CasemateError] = []
    with mounted(info.path, tmp_path / "mnt", errors) as descriptor:
        for offset in range(0, len(CONTENT), size):
            found = read(descriptor, size, offset)
            # Elsewhere than near the chunk nothing may be lost; near is what is read along.
            if abs(offset // CHUNK - changed) > 32:
                assert found is not None
        assert read(descriptor, PAGE, changed * CHUNK + CHUNK // 2) is None
    assert {error.code for error in errors} == {"image.chunk-corrupt"}


def test_reading_at_random_while_the_host_changes_chunks(tmp_path: Path) -> None:
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    chance, errors, failed = random.Random(3), [], 0
    with (
        mounted(info.path, tmp_path / "mnt", errors) as descriptor,
        info.path.open("r+b", buffering=0) as host,
    ):
        for turn in range(300):
            at = PAYLOAD_START + chance.randrange(CHUNKS * CHUNK)
            before = os.pread(host.fileno(), 1, at)
            if turn % 3 == 0:
                os.pwrite(host.fileno(), bytes([before[0] ^ 1]), at)
            offset = chance.randrange(len(CONTENT) // PAGE) * PAGE
            failed += read(descriptor, chance.choice([PAGE, CHUNK, 1 << 20]), offset) is None
    assert failed
    assert errors


@pytest.mark.parametrize("chunks", [0, 1, 40, CHUNKS - 1])
def test_a_file_that_is_cut_while_mounted(tmp_path: Path, chunks: int) -> None:
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    errors: list[CasemateError] = []
    with mounted(info.path, tmp_path / "mnt", errors) as descriptor:
        os.truncate(info.path, PAYLOAD_START + chunks * CHUNK + 5)
        results = [read(descriptor, 1 << 20, at) for at in range(0, len(CONTENT), 1 << 20)]
        assert results[-1] is None
    assert errors[0].code == "image.truncated"


_SERVER = """
import sys
from pathlib import Path
from casemate.image.erofs_mount import ErofsMount
from casemate.image.reader import open_image
from casemate.types import Secret

with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    with ErofsMount(image, Path(sys.argv[2])) as mount:
        print("ready", flush=True)
        mount.wait()
"""


@contextmanager
def served(image: Path, place: Path) -> Iterator[subprocess.Popen[str]]:
    """A mount that is served from a process of its own."""
    place.mkdir()
    command = [sys.executable, "-c", _SERVER, str(image), str(place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            yield server
        finally:
            server.kill()
            for _ in range(2):  # what FUSE serves lies below
                subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.mark.parametrize("victim", ["server", "helper"])
def test_whoever_serves_is_killed_in_the_middle_of_reads(tmp_path: Path, victim: str) -> None:
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    wrong: list[int] = []

    def reader(start: int) -> None:
        with contextlib.suppress(OSError), (tmp_path / "mnt" / "a").open("rb", 0) as mounted_file:
            for offset in range(start, len(CONTENT), 8 * CHUNK):
                found = os.pread(mounted_file.fileno(), CHUNK, offset)
                if found != CONTENT[offset : offset + len(found)]:
                    wrong.append(offset)

    with served(info.path, tmp_path / "mnt") as server:
        readers = [threading.Thread(target=reader, args=(n * CHUNK,)) for n in range(8)]
        for each in readers:
            each.start()
        pids = [server.pid] if victim == "server" else descendants(server.pid)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for each in readers:
            each.join(20)
        assert not any(each.is_alive() for each in readers), "a reader waits for ever"
    assert wrong == []


def test_a_reader_that_is_killed_leaves_no_wrong_bytes_to_others(tmp_path: Path) -> None:
    """Its request is given up halfway, and what it had is in everybody's page cache."""
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    errors: list[CasemateError] = []
    with mounted(info.path, tmp_path / "mnt", errors) as descriptor:
        for turn in range(40):
            child = subprocess.Popen(
                ["dd", f"if={tmp_path / 'mnt' / 'a'}", "of=/dev/null", "bs=1M", f"skip={turn % 9}"],
                stderr=subprocess.DEVNULL,
            )
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.0007 * (turn % 7))
            child.kill()
            child.wait()
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            offset = turn % 10 << 20
            assert read(descriptor, 1 << 20, offset) == CONTENT[offset : offset + (1 << 20)]
    assert errors == []


def test_nobody_but_root_may_look_at_the_device(tmp_path: Path) -> None:
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    with mounted(info.path, tmp_path / "mnt", []):
        line = next(
            each for each in Path("/proc/self/mounts").read_text().splitlines()
            if str(tmp_path / "mnt") in each and " erofs " in each
        )  # fmt: skip
        device = Path(line.split()[0]).stat()
        assert stat.S_ISBLK(device.st_mode)
        assert device.st_uid == 0
        assert not device.st_mode & 0o007
        assert subprocess.run(
            ["dd", f"of={line.split()[0]}", "if=/dev/zero", "bs=4k", "count=1"],
            capture_output=True, check=False,
        ).returncode  # fmt: skip


def test_when_whoever_mounted_is_killed_no_helper_holds_the_mount(tmp_path: Path) -> None:
    info = seal([file("a", CONTENT)], KEY, tmp_path / "image")
    with served(info.path, tmp_path / "mnt") as server:
        helpers = descendants(server.pid)
        server.kill()
        server.wait()
        assert gone_in_time(helpers)
        with pytest.raises(OSError) as caught:
            (tmp_path / "mnt" / "a").read_bytes()
        assert caught.value.errno == errno.EIO
