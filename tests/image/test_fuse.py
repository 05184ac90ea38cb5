"""Real mounts. Skipped, with the reason, where nothing can be mounted."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import random
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.launches import descendants
from tests.support.trees import (
    CHUNK,
    KEY,
    compare_trees,
    directory,
    file,
    hardlink,
    seal_folder,
    symlink,
    varied,
)

from casemate.errors import CasemateError, UnavailableError
from casemate.image.format import PAYLOAD_START
from casemate.image.fuse import FuseMount, fuse_available
from casemate.image.fuse_servers import LATE_REQUESTS_END
from casemate.image.reader import SealedImage, open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry
from casemate.types import Sha384

_REASON = fuse_available()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"no mount here: {_REASON}")


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mountpoint"
    path.mkdir()
    yield path
    # Not os.path.ismount: a mount whose server is gone can't be asked, and counts as none there.
    assert str(path) not in Path("/proc/self/mounts").read_text(), "a mount was left behind"


def opened(tmp_path: Path, *tree: TreeEntry) -> SealedImage:
    info = seal(tree, KEY, tmp_path / "image")
    return open_image(info.path, KEY, info.id)


def test_a_mount_shows_the_tree(tmp_path: Path, mountpoint: Path) -> None:
    folder, info = seal_folder(tmp_path)
    with open_image(info.path, KEY, info.id) as image, FuseMount(image, mountpoint):
        compare_trees(folder, mountpoint)
        output = subprocess.run(
            ["diff", "-r", "--no-dereference", str(folder), str(mountpoint)],
            capture_output=True,
            check=False,
        )
        assert output.stdout == b""
        assert (mountpoint / "etc" / "nothing").samefile(mountpoint / "etc" / "nothing too")


def test_random_reads_are_the_source(tmp_path: Path, mountpoint: Path) -> None:
    content = varied(40 * CHUNK + 333)
    chance = random.Random(7)
    with (
        opened(tmp_path, file("0", b"shift"), file("a", content)) as image,
        FuseMount(image, mountpoint),
        (mountpoint / "a").open("rb", buffering=0) as mounted,
    ):
        for _ in range(150):
            offset = chance.randrange(len(content) + 100)
            length = chance.choice([1, 4095, 4097, CHUNK, 3 * CHUNK + 1, 2 << 20])
            assert os.pread(mounted.fileno(), length, offset) == content[offset : offset + length]


def test_several_readers_at_once(tmp_path: Path, mountpoint: Path) -> None:
    contents = {f"f{i}": varied(8 * CHUNK + i, i) for i in range(4)}
    wrong: list[str] = []

    def read(name: str) -> None:
        if (mountpoint / name).read_bytes() != contents[name]:
            wrong.append(name)

    tree = [file(name, content) for name, content in contents.items()]
    with opened(tmp_path, *tree) as image, FuseMount(image, mountpoint):
        readers = [threading.Thread(target=read, args=(name,)) for name in contents]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert wrong == []


def test_a_large_directory_is_listed_whole(tmp_path: Path, mountpoint: Path) -> None:
    names = {f"entry-{i:05}-{'x' * (i % 200)}" for i in range(3000)}
    tree = [file(f"d/{name}", b"") for name in names]
    with opened(tmp_path, *tree) as image, FuseMount(image, mountpoint):
        assert {path.name for path in (mountpoint / "d").iterdir()} == names


def test_metadata(tmp_path: Path, mountpoint: Path) -> None:
    tree = [
        TreeEntry(
            path="f",
            kind=EntryKind.FILE,
            mode=0o640,
            uid=7,
            gid=8,
            mtime=1_700_000_000,
            size=3,
            source=b"abc",
            xattrs=(("user.one", b"1"), ("user.two", b"22")),
        ),
        hardlink("g", "f"),
        directory("h", 0o711),
        symlink("i", "where/ever"),
    ]
    with opened(tmp_path, *tree) as image, FuseMount(image, mountpoint):
        found = (mountpoint / "f").stat()
        assert found.st_mode & 0o7777 == 0o640
        assert (found.st_uid, found.st_gid, found.st_mtime) == (7, 8, 1_700_000_000)
        assert (found.st_size, found.st_nlink) == (3, 2)
        assert (mountpoint / "h").stat().st_mode & 0o777 == 0o711
        assert (mountpoint / "i").readlink() == Path("where/ever")
        assert os.listxattr(mountpoint / "f") == ["user.one", "user.two"]
        assert os.getxattr(mountpoint / "f", "user.two") == b"22"
        with pytest.raises(OSError, match="No data"):
            os.getxattr(mountpoint / "h", "user.one")
        assert os.statvfs(mountpoint).f_bfree == 0


def _errno_of_nobody(folder: Path, name: str) -> int:
    """What another user of the machine gets who opens a file; 0 where they can."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    pid = os.fork()
    if pid == 0:
        number = 0
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os.close(os.open(name, os.O_RDONLY, dir_fd=place))
        except OSError as error:
            number = error.errno or 255
        os._exit(number)
    os.close(place)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_modes_hold_for_other_users(tmp_path: Path, mountpoint: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be another user")
    tree = [
        TreeEntry(path="own", kind=EntryKind.FILE, mode=0o600, size=1, source=b"x"),
        TreeEntry(path="all", kind=EntryKind.FILE, mode=0o644, size=1, source=b"x"),
        TreeEntry(path="nobody's", kind=EntryKind.FILE, mode=0o400, uid=65534, size=1, source=b"x"),
    ]
    with opened(tmp_path, *tree) as image, FuseMount(image, mountpoint):
        assert _errno_of_nobody(mountpoint, "own") == errno.EACCES
        assert _errno_of_nobody(mountpoint, "all") == 0
        assert _errno_of_nobody(mountpoint, "nobody's") == 0


def test_what_is_mounted_raises_no_rights_and_has_no_devices(
    tmp_path: Path, mountpoint: Path
) -> None:
    with opened(tmp_path, file("a", b"x")) as image, FuseMount(image, mountpoint):
        flags = os.statvfs(mountpoint).f_flag
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV


def test_helpers_hold_nothing_of_whoever_mounts(tmp_path: Path, mountpoint: Path) -> None:
    """A socket or a pipe that is closed would stay open in them: an end that never comes."""
    reader, writer = os.pipe()
    with opened(tmp_path, file("a", b"x")) as image, FuseMount(image, mountpoint, servers=2):
        os.close(writer)
        assert select.select([reader], [], [], 5)[0], "a helper keeps the other end open"
        assert os.read(reader, 1) == b""
    os.close(reader)


def test_nothing_can_be_written(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", b"1")) as image, FuseMount(image, mountpoint):
        for attempt in (
            lambda: (mountpoint / "a").write_text("2"),
            lambda: (mountpoint / "b").touch(),
            lambda: (mountpoint / "a").unlink(),
            lambda: (mountpoint / "d").mkdir(),
            lambda: (mountpoint / "a").chmod(0o777),
            lambda: (mountpoint / "l").symlink_to("a"),
        ):
            with pytest.raises(OSError) as caught:
                attempt()
            assert caught.value.errno == errno.EROFS
        with pytest.raises(FileNotFoundError):
            (mountpoint / "missing").stat()


def test_a_changed_chunk_is_an_io_error_and_is_reported(tmp_path: Path, mountpoint: Path) -> None:
    content = varied(12 * CHUNK)
    errors: list[CasemateError] = []
    with opened(tmp_path, file("a", content)) as image:
        with image.path.open("r+b") as host:
            host.seek(PAYLOAD_START + 9 * CHUNK + 5)
            host.write(b"!")
        with FuseMount(image, mountpoint, on_error=errors.append):
            with (mountpoint / "a").open("rb", buffering=0) as mounted:
                assert os.pread(mounted.fileno(), 4096, 0) == content[:4096]
                with pytest.raises(OSError) as caught:
                    os.pread(mounted.fileno(), 4096, 9 * CHUNK)
                assert caught.value.errno == errno.EIO
            assert (mountpoint / "a").stat().st_size == len(content), "the mount lives on"
    assert {error.code for error in errors} == {"image.chunk-corrupt"}
    assert errors[0].field == "chunk 9"
    assert str(image.path) in errors[0].message


def test_a_file_cut_while_mounted_is_an_io_error_not_a_wait(
    tmp_path: Path, mountpoint: Path
) -> None:
    errors: list[CasemateError] = []
    with (
        opened(tmp_path, file("a", varied(12 * CHUNK))) as image,
        FuseMount(image, mountpoint, on_error=errors.append),
    ):
        os.truncate(image.path, PAYLOAD_START + 10)
        with pytest.raises(OSError) as caught:
            (mountpoint / "a").read_bytes()
        assert caught.value.errno == errno.EIO
    assert errors[0].code == "image.truncated"


def test_a_file_replaced_while_mounted_changes_nothing(tmp_path: Path, mountpoint: Path) -> None:
    content = varied(12 * CHUNK)
    other = seal([file("a", b"other")], KEY, tmp_path / "other")
    with opened(tmp_path, file("a", content)) as image, FuseMount(image, mountpoint):
        other.path.replace(image.path)
        assert (mountpoint / "a").read_bytes() == content


@pytest.mark.skipif(
    not LATE_REQUESTS_END.exists(), reason="nothing is kept: this kernel lets requests wait"
)
def test_what_a_small_read_had_to_decrypt_is_kept(tmp_path: Path, mountpoint: Path) -> None:
    """Without that, each small read of a chunk would decrypt all of it again."""
    content = varied(170 * CHUNK)
    with (
        opened(tmp_path, file("a", content)) as image,
        FuseMount(image, mountpoint, servers=1, on_error=lambda error: None),
        (mountpoint / "a").open("rb", buffering=0) as mounted,
    ):
        chunks = range(5, 165, 2)  # more than our own cache holds

        def read(chunk: int, page: int) -> bytes:
            return os.pread(mounted.fileno(), 4096, chunk * CHUNK + page * 4096)

        def kept() -> int:
            count = 0
            for chunk in chunks[:16]:
                with contextlib.suppress(OSError):
                    assert read(chunk, 9) == content[chunk * CHUNK + 9 * 4096 :][:4096]
                    count += 1
            return count

        for chunk in chunks:
            read(chunk, 3)
            time.sleep(0.002)  # what comes too fast is left out
        os.truncate(image.path, PAYLOAD_START)  # from now on nothing can be decrypted
        _wait_until(lambda: kept() >= 8)  # it is stored by the way


def test_a_mount_that_nobody_reads_from_uses_no_processor(tmp_path: Path, mountpoint: Path) -> None:
    """Who answers asks for more for a moment, and for a moment only."""
    with (
        opened(tmp_path, file("a", varied(60 * CHUNK))) as image,
        FuseMount(image, mountpoint, servers=2),
    ):
        with (mountpoint / "a").open("rb", buffering=0) as mounted:
            for chunk in range(60):  # one request each, soon after one another
                os.pread(mounted.fileno(), 4096, chunk * 37 % 60 * CHUNK)
        servers = [os.getpid(), *descendants(os.getpid())]
        assert len(servers) == 1 + 1 + 2, "who mounted, a process that stands by, two servers"

        def used() -> int:
            values = [Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1] for one in servers]
            return sum(int(value.split()[11]) + int(value.split()[12]) for value in values)

        before = used()
        time.sleep(0.4)
        assert used() - before <= 5, "of 40 hundredths of a second"


def test_stopping_works_while_files_are_open(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", varied(12 * CHUNK))) as image:
        mount = FuseMount(image, mountpoint)
        mount.start()
        held = os.open(mountpoint / "a", os.O_RDONLY)
        try:
            start = time.monotonic()
            mount.stop()
            assert time.monotonic() - start < 5
            assert not os.path.ismount(mountpoint)
            with pytest.raises(OSError):
                os.pread(held, 1 << 20, 8 * CHUNK)
        finally:
            with contextlib.suppress(OSError):  # closing tells the gone file system, too
                os.close(held)
        mount.stop()


def test_a_mount_can_be_waited_for(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path) as image, FuseMount(image, mountpoint) as mount:
        subprocess.run(["umount", str(mountpoint)], check=True)
        mount.wait()


def test_a_mountpoint_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with opened(tmp_path) as image, pytest.raises(UnavailableError) as caught:
        FuseMount(image, tmp_path / "missing").start()
    assert caught.value.code == "image.mount"


def test_a_mount_that_nobody_could_serve_is_taken_away_again(
    tmp_path: Path, mountpoint: Path
) -> None:
    """Left behind, it would let everybody wait who looks at it."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with opened(tmp_path, file("a", b"1")) as image, contextlib.ExitStack() as held:
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
        spare = os.open(os.devnull, os.O_RDONLY)
        with contextlib.suppress(OSError):
            while True:
                held.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        os.close(spare)  # enough for the device, not for what serves it
        with pytest.raises(UnavailableError) as caught:
            FuseMount(image, mountpoint).start()
    assert caught.value.code == "image.mount"
    assert "Too many open files" in (caught.value.got or "")


def test_opening_descriptors_are_given_back(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", b"1")) as image:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with FuseMount(image, mountpoint):
                assert (mountpoint / "a").read_bytes() == b"1"
        # The thread that stores ends by itself, and closes what it has then.
        _wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) == before)


def test_readers_do_not_hang_when_the_server_dies(tmp_path: Path, mountpoint: Path) -> None:
    info = seal([file("a", varied(12 * CHUNK))], KEY, tmp_path / "image")
    server = os.fork()
    if server == 0:
        _serve_until_killed(info.path, info.id, mountpoint)
    try:
        _wait_until(lambda: os.path.ismount(mountpoint))
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
        with pytest.raises(OSError) as caught:
            (mountpoint / "a").read_bytes()
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    finally:
        subprocess.run(["umount", "-l", str(mountpoint)], check=True)


def _serve_until_killed(path: Path, image_id: Sha384, mountpoint: Path) -> None:
    try:
        with open_image(path, KEY, image_id) as image, FuseMount(image, mountpoint) as mount:
            mount.wait()
    finally:
        os._exit(0)


def _wait_until(condition: object) -> None:
    assert callable(condition)
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it didn't happen within five seconds")


_IN_NAMESPACE = """
import os, sys
from pathlib import Path
from casemate.image.fuse import FuseMount, fuse_available
from casemate.image.reader import open_image
from casemate.types import Secret
assert fuse_available() is None, fuse_available()
with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    with FuseMount(image, Path(sys.argv[2])):
        sys.stdout.write(Path(sys.argv[2], "a").read_text())
"""


def test_root_of_a_user_namespace_may_mount(tmp_path: Path, mountpoint: Path) -> None:
    info = seal([file("a", b"from a namespace")], KEY, tmp_path / "image")
    command = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespace here")
    done = subprocess.run(
        [*command, sys.executable, "-c", _IN_NAMESPACE, str(info.path), str(mountpoint)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("from a namespace", 0), done.stderr


def test_without_the_right_to_mount_the_reason_is_told(tmp_path: Path) -> None:
    del tmp_path
    child = os.fork()
    if child == 0:
        libc = ctypes.CDLL(None)
        libc.prctl(24, 21, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_SYS_ADMIN
        os.execv(  # the bounding set takes effect at exec
            sys.executable,
            [
                sys.executable,
                "-c",
                "from casemate.image.fuse import fuse_available; import sys;"
                "sys.exit(0 if 'CAP_SYS_ADMIN' in (fuse_available() or '') else 9)",
            ],
        )
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
