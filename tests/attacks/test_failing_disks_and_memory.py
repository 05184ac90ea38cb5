"""Disks fail, memory runs out, processes die: an error, never wrong bytes, never a wait.

The failing disk is a real one to the kernel: a mount whose own image has a changed chunk gives EIO
for exactly those bytes, and the sealed image that fails lies on it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.launches import descendants, gone_in_time
from tests.support.trees import CHUNK, KEY, OTHER_KEY, file, varied

from casemate.errors import CasemateError, NotGenuineError, UnavailableError
from casemate.image.extract import extract
from casemate.image.format import PAYLOAD_START
from casemate.image.fuse import FuseMount, fuse_available
from casemate.image.fuse_tree import ImageTree, Rest
from casemate.image.nodes import Node
from casemate.image.reader import open_image
from casemate.image.seal import SealedImageInfo, seal

_REASON = fuse_available()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"no mount here: {_REASON}")

CONTENT = varied(40 * CHUNK)
TREE = (file("a", CONTENT), file("b", b"fine"))


@dataclass(frozen=True)
class Disk:
    """A sealed image on a disk that gives EIO for one of its chunks."""

    image: Path
    info: SealedImageInfo
    broken: int

    @property
    def offset(self) -> int:
        """Where in the file ``a`` the broken chunk begins."""
        with open_image(self.image, KEY) as image:
            return self.broken * CHUNK - image.entry("a").offset


@contextmanager
def failing_disk(folder: Path, *, broken: int = 9) -> Iterator[Disk]:
    (folder / "disk").mkdir()
    info = seal(TREE, KEY, folder / "inner")
    disk = seal([file("image", info.path.read_bytes())], OTHER_KEY, folder / "outer")
    with open_image(disk.path, OTHER_KEY) as outer:
        # The first byte of the inner image's chunk, wherever that lies in the outer one.
        place = outer.entry("image").offset + PAYLOAD_START + broken * CHUNK
        with disk.path.open("r+b") as raw:
            raw.seek(PAYLOAD_START + place)
            changed = bytes([raw.read(1)[0] ^ 1])
            raw.seek(PAYLOAD_START + place)
            raw.write(changed)
        with FuseMount(outer, folder / "disk", on_error=lambda error: None):
            yield Disk(folder / "disk" / "image", info, broken)


def test_a_disk_error_names_image_and_chunk(tmp_path: Path) -> None:
    with failing_disk(tmp_path) as disk, open_image(disk.image, KEY, disk.info.id) as image:
        assert image.read_file("a", 0, 4 * CHUNK) == CONTENT[: 4 * CHUNK]
        for attempt in (
            lambda: image.read_file("a", disk.offset, 10),
            lambda: image.verify_all(threads=2),
        ):
            with pytest.raises(UnavailableError) as caught:
                attempt()
            assert caught.value.code == "image.unreadable"
            assert str(disk.image) in caught.value.message
            assert caught.value.got == os.strerror(errno.EIO)
        with pytest.raises(UnavailableError) as caught:
            image.read_file("a", disk.offset, 10)
        assert caught.value.field == f"chunk {disk.broken}"
        assert image.read_file("a", disk.offset + 2 * CHUNK) == CONTENT[disk.offset + 2 * CHUNK :]


def test_a_disk_error_below_a_mount_is_an_io_error_to_the_reader(tmp_path: Path) -> None:
    errors: list[CasemateError] = []
    (tmp_path / "mnt").mkdir()
    with (
        failing_disk(tmp_path) as disk,
        open_image(disk.image, KEY, disk.info.id) as image,
        FuseMount(image, tmp_path / "mnt", on_error=errors.append),
    ):
        with (tmp_path / "mnt" / "a").open("rb", buffering=0) as mounted:
            with pytest.raises(OSError) as caught:
                os.pread(mounted.fileno(), 100, disk.offset)
            assert caught.value.errno == errno.EIO
            assert os.pread(mounted.fileno(), 100, 0) == CONTENT[:100]
        assert (tmp_path / "mnt" / "b").read_bytes() == b"fine"
        wait_until(lambda: bool(errors))
    assert {error.code for error in errors} == {"image.unreadable"}
    assert {error.field for error in errors} == {f"chunk {disk.broken}"}


def test_a_disk_error_during_extraction_leaves_nothing_behind(tmp_path: Path) -> None:
    with (
        failing_disk(tmp_path) as disk,
        open_image(disk.image, KEY) as image,
        pytest.raises(UnavailableError),
    ):
        extract(image, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_disk_error_in_the_prologue_is_an_error_at_once(tmp_path: Path) -> None:
    with failing_disk(tmp_path, broken=0) as disk, pytest.raises(UnavailableError) as caught:
        open_image(disk.image, KEY)  # in one page of the disk's chunk with the first chunk's start
    assert caught.value.code == "image.unreadable"


_SERVER = """
import resource, sys
from pathlib import Path
from casemate.image.fuse import FuseMount
from casemate.image.fuse_tree import ImageTree
from casemate.image.reader import open_image
from casemate.types import Secret

image, folder, servers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
hoard = []

def use_up_memory():
    pieces = [bytearray(4096) for _ in range(256)]
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), -1))
    try:
        while True:
            hoard.append(bytearray(32768))
    except MemoryError:
        hoard.append(pieces[1::2])  # small pieces are left, and no large one

class WithoutMemory(ImageTree):
    def read(self, node, room, offset):
        if not hoard:
            use_up_memory()
        return super().read(node, room, offset)

def tell(error):
    print(error.code, error, file=sys.stderr, flush=True)

with open_image(image, Secret(bytes(range(32)))) as opened:
    tree = WithoutMemory(opened) if "--without-memory" in sys.argv else None
    with FuseMount(opened, folder, servers=servers, on_error=tell, tree=tree) as mount:
        print("ready", flush=True)
        mount.wait()
"""


@contextmanager
def served(
    image: Path, folder: Path, *options: str, servers: int = 2
) -> Iterator[subprocess.Popen[str]]:
    """A mount of an image on a new folder, served from a process of its own."""
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(image), str(folder), str(servers), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},  # so that a limit holds for every thread
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        try:
            yield server
        finally:
            server.kill()
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def test_without_memory_reads_fail_and_work_again_once_there_is_some(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with (
        served(info.path, tmp_path / "mnt", "--without-memory", servers=1) as server,
        (tmp_path / "mnt" / "a").open("rb", buffering=0) as mounted,
    ):
        with pytest.raises(OSError) as caught:
            os.pread(mounted.fileno(), 4096, 7 * CHUNK)
        assert caught.value.errno == errno.EIO
        resource.prlimit(descendants(server.pid)[1], resource.RLIMIT_AS, (-1, -1))
        assert os.pread(mounted.fileno(), 4096, 7 * CHUNK) == CONTENT[7 * CHUNK :][:4096]
        assert server.stderr is not None
        told = server.stderr.readline()
    assert f"image.no-memory {info.path}: no memory is left to decrypt chunk" in told


def test_when_a_server_is_killed_the_others_go_on(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with served(info.path, tmp_path / "mnt") as mounter:
        _standby, one, _other = descendants(mounter.pid)
        os.kill(one, signal.SIGKILL)
        assert gone_in_time([one])  # until then it may take a request, and fail it
        assert (tmp_path / "mnt" / "a").read_bytes() == CONTENT


def test_when_every_server_is_killed_nobody_waits(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with served(info.path, tmp_path / "mnt") as mounter:
        for one in descendants(mounter.pid)[1:]:
            os.kill(one, signal.SIGKILL)
        mounter.wait(10)  # it has seen that the mount is gone
        assert str(tmp_path / "mnt") not in Path("/proc/self/mounts").read_text()


def test_when_whoever_mounted_is_killed_no_server_holds_the_mount(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with served(info.path, tmp_path / "mnt") as mounter:
        servers = descendants(mounter.pid)
        mounter.kill()
        mounter.wait()
        assert len(servers) == 3
        assert gone_in_time(servers)
        with pytest.raises(OSError) as caught:
            (tmp_path / "mnt" / "a").read_bytes()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)


def test_who_stands_by_ends_also_where_it_was_stopped(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with served(info.path, tmp_path / "mnt") as mounter:
        ours = descendants(mounter.pid)
        for pid in ours:
            os.kill(pid, signal.SIGSTOP)
        mounter.kill()
        assert gone_in_time(ours, 5)


_WITH_GARBAGE = """
import gc, sys
from pathlib import Path
from casemate.image.fuse import FuseMount
from casemate.image.fuse_tree import ImageTree
from casemate.image.reader import open_image
from casemate.types import Secret

class Collecting(ImageTree):
    def read(self, node, room, offset):
        gc.collect()
        return super().read(node, room, offset)

gc.collect()
gc.disable()
for _ in range(16):
    owner = [open("/dev/null", "rb", 0)]
    owner.append(owner)  # only a collection finds it
del owner
with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    with FuseMount(image, Path(sys.argv[2]), servers=1, tree=Collecting(image)):
        sys.stdout.buffer.write(Path(sys.argv[2], "b").read_bytes())
"""


def test_garbage_of_whoever_mounts_closes_nothing_of_a_server(tmp_path: Path) -> None:
    """Numbers of descriptors that were somebody's mean others in a server."""
    info = seal(TREE, KEY, tmp_path / "image")
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _WITH_GARBAGE, str(info.path), str(tmp_path / "mnt")],
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == b"fine", done.stderr


def test_killing_a_server_in_the_middle_of_reads_is_an_error_at_most(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    wrong: list[int] = []

    def read(start: int) -> None:
        with contextlib.suppress(OSError), (tmp_path / "mnt" / "a").open("rb", 0) as mounted:
            for offset in range(start, len(CONTENT), 8 * CHUNK):
                if os.pread(mounted.fileno(), CHUNK, offset) != CONTENT[offset : offset + CHUNK]:
                    wrong.append(offset)

    with served(info.path, tmp_path / "mnt") as mounter:
        readers = [threading.Thread(target=read, args=(n * CHUNK,)) for n in range(8)]
        for reader in readers:
            reader.start()
        os.kill(descendants(mounter.pid)[1], signal.SIGKILL)
        for reader in readers:
            reader.join(20)
        assert not any(reader.is_alive() for reader in readers), "a reader waits for ever"
    assert wrong == []


class Refused(ImageTree):
    """What reading it says is known, and has every part that an error can have."""

    error = NotGenuineError(
        "image.chunk-corrupt", "x: chunk 7", field="chunk 7", expected="e", got="g", remedy="r"
    )

    def read(self, node: Node, room: memoryview, offset: int) -> tuple[int, Rest | None]:
        raise self.error


def test_servers_pass_on_what_went_wrong_and_end_with_the_mount(tmp_path: Path) -> None:
    heard: list[CasemateError] = []
    info = seal(TREE, KEY, tmp_path / "image")
    folder = tmp_path / "mnt"
    folder.mkdir()
    with open_image(info.path, KEY) as image:
        with FuseMount(image, folder, on_error=heard.append, tree=Refused(image)):
            assert len(descendants(os.getpid())) == 1 + min(len(os.sched_getaffinity(0)), 4)
            for name in ("a", "b"):
                with pytest.raises(OSError) as caught:
                    (folder / name).read_bytes()
                assert caught.value.errno == errno.EIO
        assert {type(error) for error in heard} == {NotGenuineError}
        assert heard[0].as_dict() == Refused.error.as_dict()
    assert descendants(os.getpid()) == []


def test_a_listener_that_fails_ends_no_mount(tmp_path: Path) -> None:
    heard: list[CasemateError] = []

    def listen(error: CasemateError) -> None:
        heard.append(error)
        raise ValueError("a listener's own fault")

    info = seal(TREE, KEY, tmp_path / "image")
    folder = tmp_path / "mnt"
    folder.mkdir()
    with (
        open_image(info.path, KEY) as image,
        FuseMount(image, folder, on_error=listen, tree=Refused(image)),
    ):
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                (folder / "b").read_bytes()
            assert caught.value.errno == errno.EIO
            wait_until(lambda: bool(heard))
            heard.clear()


def test_a_listener_that_blocks_keeps_no_reader_waiting(tmp_path: Path) -> None:
    """What a server may still tell is soon full; then it tells no more, and answers."""
    goes_on = threading.Event()
    info = seal(TREE, KEY, tmp_path / "image")
    folder = tmp_path / "mnt"
    folder.mkdir()

    def listen(error: CasemateError) -> None:
        goes_on.wait(60)

    def read() -> None:
        for _ in range(100):
            with contextlib.suppress(OSError):
                (folder / "b").read_bytes()

    with (
        open_image(info.path, KEY) as image,
        FuseMount(
            image,
            folder,
            servers=1,
            on_error=listen,
            tree=Refused(image),
        ),
    ):
        reader = threading.Thread(target=read)
        reader.start()
        reader.join(10)
        waits = reader.is_alive()
        goes_on.set()
    assert not waits


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it didn't happen within five seconds")
