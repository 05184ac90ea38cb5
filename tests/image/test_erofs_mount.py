"""Real mounts through EROFS. Skipped, with the reason, where the machine doesn't allow them."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.attested import wait_until
from tests.support.erofs import loop_devices, needs_erofs
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

from casemate.errors import UnavailableError
from casemate.image.erofs_mount import ErofsMount
from casemate.image.mounts import of_large_files, start_mount
from casemate.image.reader import SealedImage, open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry
from casemate.image.ways import OpenChoice


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "a name, with: marks"
    path.mkdir()
    yield path
    mounted = str(path).replace(" ", "\\040")
    assert mounted not in Path("/proc/self/mounts").read_text(), "a mount was left behind"
    assert list(path.iterdir()) == []


def opened(tmp_path: Path, *tree: TreeEntry) -> SealedImage:
    info = seal(tree, KEY, tmp_path / "image")
    return open_image(info.path, KEY, info.id)


def loops_of(folder: Path) -> list[str]:
    """Loop devices whose file lies, or lay, in a folder."""
    return [path for path in loop_devices().values() if path.startswith(str(folder))]


@needs_erofs
def test_a_mount_shows_the_tree_and_goes_without_a_trace(tmp_path: Path, mountpoint: Path) -> None:
    folder, info = seal_folder(tmp_path)
    with open_image(info.path, KEY, info.id) as image, ErofsMount(image, mountpoint):
        compare_trees(folder, mountpoint)
        assert (mountpoint / "etc" / "nothing").samefile(mountpoint / "etc" / "nothing too")
        assert len(loops_of(mountpoint)) == 1
    wait_until(lambda: loops_of(mountpoint) == [])


@needs_erofs
def test_metadata(tmp_path: Path, mountpoint: Path) -> None:
    attributes = (("user.large", bytes(range(256)) * 30), ("user.one", b"1"))
    entry = TreeEntry(
        path="f", kind=EntryKind.FILE, mode=0o640, uid=7, gid=8, mtime=1_700_000_000, size=3,
        source=b"abc", xattrs=attributes,
    )  # fmt: skip
    links = [symlink("i", "where/ever"), symlink("j", "x" * 4000)]
    tree = [entry, hardlink("g", "f"), directory("h", 0o711), *links]
    with opened(tmp_path, *tree) as image, ErofsMount(image, mountpoint):
        found = (mountpoint / "f").stat()
        assert found.st_mode & 0o7777 == 0o640
        assert (found.st_uid, found.st_gid, found.st_mtime) == (7, 8, 1_700_000_000)
        assert (found.st_size, found.st_nlink) == (3, 2)
        assert (mountpoint / "h").stat().st_mode & 0o777 == 0o711
        for link in links:
            assert str((mountpoint / link.path).readlink()) == link.target
        assert sorted(os.listxattr(mountpoint / "f")) == ["user.large", "user.one"]
        for name, value in attributes:
            assert os.getxattr(mountpoint / "f", name) == value
        with pytest.raises(FileNotFoundError):
            (mountpoint / "missing").stat()
        with pytest.raises(OSError) as caught:
            (mountpoint / "new").touch()
        assert caught.value.errno == errno.EROFS
        options = next(
            line for line in Path("/proc/self/mounts").read_text().splitlines() if " erofs " in line
            and str(tmp_path) in line
        )  # fmt: skip
        assert {"ro", "nosuid", "nodev"} <= set(options.split()[3].split(","))


@needs_erofs
def test_a_large_directory_is_listed_whole_and_each_name_found(
    tmp_path: Path, mountpoint: Path
) -> None:
    names = {f"entry-{i:05}-{'x' * (i % 200)}" for i in range(3000)}
    tree = [file(f"d/{name}", b"") for name in names]
    with opened(tmp_path, directory("d"), *tree) as image, ErofsMount(image, mountpoint):
        assert {path.name for path in (mountpoint / "d").iterdir()} == names
        assert all((mountpoint / "d" / name).exists() for name in names)


@needs_erofs
def test_random_reads_by_several_are_the_source(tmp_path: Path, mountpoint: Path) -> None:
    content = varied(80 * CHUNK + 333)
    wrong: list[int] = []

    def read(seed: int) -> None:
        chance = random.Random(seed)
        with (mountpoint / "a").open("rb", buffering=0) as mounted:
            for _ in range(60):
                offset = chance.randrange(len(content) + 100)
                length = chance.choice([1, 4095, 4097, CHUNK, 3 * CHUNK + 1, 2 << 20])
                found = os.pread(mounted.fileno(), length, offset)
                if found != content[offset : offset + length]:
                    wrong.append(offset)

    with (
        opened(tmp_path, file("0", b"shift"), file("a", content)) as image,
        ErofsMount(image, mountpoint),
    ):
        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert wrong == []


@needs_erofs
def test_stopping_works_while_files_are_open(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", varied(80 * CHUNK))) as image:
        mount = ErofsMount(image, mountpoint)
        mount.start()
        with (mountpoint / "a").open("rb", buffering=0) as held:
            start = time.monotonic()
            mount.stop()
            assert time.monotonic() - start < 5
            assert not os.path.ismount(mountpoint)
            with pytest.raises(OSError):
                os.pread(held.fileno(), 1 << 20, 40 * CHUNK)
        mount.stop()


@needs_erofs
def test_who_waits_is_told_when_somebody_else_unmounts(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", b"1")) as image, ErofsMount(image, mountpoint) as mount:
        subprocess.run(["umount", str(mountpoint)], check=True)
        mount.wait()
    wait_until(lambda: loops_of(mountpoint) == [])


@needs_erofs
def test_who_waits_is_told_when_nobody_serves_it_any_more(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", b"1")) as image, ErofsMount(image, mountpoint) as mount:
        for server in descendants(os.getpid()):
            os.kill(server, signal.SIGKILL)
        began = time.monotonic()
        mount.wait()
        assert time.monotonic() - began < 10
        assert not mount.is_served()
    wait_until(lambda: loops_of(mountpoint) == [])


@needs_erofs
def test_descriptors_are_given_back(tmp_path: Path, mountpoint: Path) -> None:
    with opened(tmp_path, file("a", b"1")) as image:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            with ErofsMount(image, mountpoint):
                assert (mountpoint / "a").read_bytes() == b"1"
        # The thread that stores ends by itself, and closes what it has then.
        wait_until(lambda: len(list(Path("/proc/self/fd").iterdir())) == before)


@needs_erofs
def test_what_erofs_cannot_show_is_mounted_through_fuse(tmp_path: Path, mountpoint: Path) -> None:
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff20000400ffffffff")
    entry = TreeEntry(
        path="f", kind=EntryKind.FILE, mode=0o644, size=16 << 20, source=bytes(16 << 20),
        xattrs=(("system.posix_acl_access", acl),),
    )  # fmt: skip
    with opened(tmp_path, entry) as image:
        with pytest.raises(UnavailableError) as caught:
            start_mount(image, mountpoint, OpenChoice.EROFS)
        assert caught.value.code == "image.erofs"
        mount = start_mount(image, mountpoint, OpenChoice.MOUNT)
        try:
            assert mount.through == "FUSE"
            assert (mountpoint / "f").stat().st_size == 16 << 20
        finally:
            mount.stop()


@needs_erofs
@pytest.mark.parametrize(
    ("choice", "large", "through"),
    [
        (OpenChoice.AUTO, True, "EROFS"),
        (OpenChoice.MOUNT, True, "EROFS"),
        (OpenChoice.MOUNT, False, "FUSE"),
        (OpenChoice.FUSE, True, "FUSE"),
        (OpenChoice.EROFS, False, "EROFS"),
    ],
)
def test_which_file_system_an_image_gets(
    tmp_path: Path, mountpoint: Path, choice: OpenChoice, large: bool, through: str
) -> None:
    tree = [file("small", bytes(1 << 20)), *([file("weights", bytes(16 << 20))] if large else [])]
    with opened(tmp_path, *tree) as image:
        assert of_large_files(image) == large
        mount = start_mount(image, mountpoint, choice)
        try:
            assert mount.through == through
            assert (mountpoint / "small").read_bytes() == bytes(1 << 20)
        finally:
            mount.stop()


def test_where_it_cannot_be_mounted_at_all_that_is_the_reason(tmp_path: Path) -> None:
    with opened(tmp_path, file("a", b"1")) as image, pytest.raises(UnavailableError) as caught:
        ErofsMount(image, tmp_path / "missing").start()
    assert caught.value.code == "image.mount"
