from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from pathlib import Path

import pytest
from tests.support.trees import (
    CHUNK,
    KEY,
    compare_trees,
    directory,
    file,
    seal_folder,
    symlink,
    varied,
)

from casemate.errors import UsageError
from casemate.image.extract import extract
from casemate.image.keys import encode_key_file
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry, tree_from_directory
from casemate.project.programs import casemate_command, run_program


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_extracting_gives_the_tree_again(tmp_path: Path, threads: int) -> None:
    folder, info = seal_folder(tmp_path)
    with open_image(info.path, KEY) as image:
        done = extract(image, tmp_path / "out", threads=threads)
    compare_trees(folder, tmp_path / "out")
    assert done.entries == info.entries
    again = tree_from_directory(tmp_path / "out")
    assert seal(again, KEY, tmp_path / "image 2").id == info.id


def test_large_files_are_written_in_parts(tmp_path: Path) -> None:
    content = varied(20 * CHUNK + 5)
    info = seal([file("0", b"shift"), file("a", content, 0o400)], KEY, tmp_path / "image")
    calls: list[tuple[int, int]] = []
    with open_image(info.path, KEY) as image:
        extract(image, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert (tmp_path / "out" / "a").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "out" / "a").stat().st_mode) == 0o400
    assert calls[-1] == (len(content) + 5, len(content) + 5)


def test_modes_and_times_are_restored(tmp_path: Path) -> None:
    tree = [
        TreeEntry(path="d", kind=EntryKind.DIRECTORY, mode=0o500, mtime=1000),
        TreeEntry(path="d/f", kind=EntryKind.FILE, mode=0o4751, mtime=2000, source=b""),
        TreeEntry(path="d/l", kind=EntryKind.SYMLINK, mode=0o777, mtime=3000, target="f"),
    ]
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        extract(image, tmp_path / "out")
    out = tmp_path / "out" / "d"
    assert stat.S_IMODE(out.stat().st_mode) == 0o500
    assert stat.S_IMODE((out / "f").stat().st_mode) == 0o751, "no set-user-id without the owner"
    assert [int(p.lstat().st_mtime) for p in (out, out / "f", out / "l")] == [1000, 2000, 3000]
    out.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owners_are_restored_on_request(tmp_path: Path) -> None:
    tree = [
        TreeEntry(path="f", kind=EntryKind.FILE, mode=0o4755, uid=7, gid=8, source=b""),
        TreeEntry(path="l", kind=EntryKind.SYMLINK, mode=0o777, uid=7, gid=8, target="f"),
    ]
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        extract(image, tmp_path / "out", restore_owner=True)
    for name in ("f", "l"):
        found = (tmp_path / "out" / name).lstat()
        assert (found.st_uid, found.st_gid) == (7, 8)
    assert stat.S_IMODE((tmp_path / "out" / "f").stat().st_mode) == 0o4755


def test_who_may_not_give_files_away_is_told_so(tmp_path: Path) -> None:
    tree = [TreeEntry(path="f", kind=EntryKind.FILE, mode=0o644, uid=7, gid=7, source=b"")]
    seal(tree, KEY, image := tmp_path / "image")
    (tmp_path / "key").write_bytes(encode_key_file(KEY).reveal())
    powerless = ("setpriv", "--bounding-set=-chown", "--inh-caps=-chown")
    done = run_program(
        [
            *(powerless if os.geteuid() == 0 else ()), *casemate_command("image", "extract"),
            str(image), str(tmp_path / "out"), "--key", str(tmp_path / "key"), "--restore-owner",
            "--dangerously-allow-disk",
        ]
    )  # fmt: skip
    assert (done.status, "as root" in done.stderr) == (2, True), done.stderr
    assert f"field:    {tmp_path / 'out'}\n" in done.stderr
    assert not (tmp_path / "out").exists()


def test_attributes_are_restored_or_reported(tmp_path: Path) -> None:
    tree = [
        TreeEntry(path="f", kind=EntryKind.FILE, mode=0o644, source=b"", xattrs=(("user.a", b"1"),))
    ]
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        done = extract(image, tmp_path / "out")
    if done.without_attributes:
        assert done.without_attributes == ("f",)
    else:
        assert os.getxattr(tmp_path / "out" / "f", "user.a") == b"1"


def test_a_subset_comes_with_its_directories_and_linked_files(tmp_path: Path) -> None:
    _, info = seal_folder(tmp_path)
    with open_image(info.path, KEY) as image:
        extract(image, tmp_path / "out", subset=["etc/nothing too", "bin"])
        with pytest.raises(UsageError) as caught:
            extract(image, tmp_path / "other", subset=["missing"])
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")) == [
        "bin",
        "bin/tool",
        "etc",
        "etc/nothing",
        "etc/nothing too",
    ]
    assert caught.value.code == "image.no-entry"


def test_only_an_empty_directory_is_written_to(tmp_path: Path) -> None:
    info = seal([file("a", b"")], KEY, tmp_path / "image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with open_image(info.path, KEY) as image:
        for destination in (tmp_path / "out", tmp_path / "link", tmp_path / "no" / "way"):
            with pytest.raises(UsageError) as caught:
                extract(image, destination)
            assert caught.value.code == "image.destination"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


class _LaysATrap:
    """Progress that puts a symbolic link where a directory of the image was just made."""

    def __init__(self, out: Path, outside: Path) -> None:
        self.out, self.outside, self.laid = out, outside, False

    def __call__(self, done: int, total: int) -> None:
        del done, total
        if not self.laid:
            self.laid = True
            (self.out / "z").rename(self.out / "moved")
            (self.out / "z").symlink_to(self.outside)


def test_two_do_not_extract_to_one_directory_at_once(tmp_path: Path) -> None:
    """Both could find it empty; then the second would fail, and remove what the first wrote."""
    info = seal([file("a", varied(40 * CHUNK))], KEY, tmp_path / "image")
    (out := tmp_path / "out").mkdir()
    refusals: list[OSError] = []

    def locked(done: int, total: int) -> None:
        other = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            refusals.append(error)
        finally:
            os.close(other)

    with open_image(info.path, KEY) as image:
        extract(image, out, progress=locked)
        assert refusals
        (out / "a").unlink()
        first = os.open(out, os.O_RDONLY)
        try:
            fcntl.flock(first, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match="another program"):
                extract(image, out)
        finally:
            os.close(first)
        extract(image, out)


def test_another_process_that_plants_links_gains_nothing(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    tree = [
        file("a", varied(9 * CHUNK)),
        directory("z"),
        file("z/b", b"secret"),
        symlink("z/c", "secret"),
    ]
    info = seal(tree, KEY, tmp_path / "image")
    trap = _LaysATrap(tmp_path / "out", tmp_path / "outside")
    with open_image(info.path, KEY) as image, pytest.raises(UsageError):
        extract(image, tmp_path / "out", threads=1, progress=trap)
    assert trap.laid
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize(
    "tree",
    [
        [file("a", varied(9 * CHUNK)), file("trap", varied(30 * CHUNK))],  # is yet to be made
        [file("trap", varied(70 * CHUNK))],  # is there, and opened again for each part
        [file("a", varied(9 * CHUNK)), file("trap", varied(33 * CHUNK))],
    ],
    ids=["small", "large", "large, not begun"],
)
@pytest.mark.parametrize("exists", [True, False])
def test_another_process_that_plants_links_in_the_place_of_files_gains_nothing(
    tmp_path: Path, tree: list[TreeEntry], exists: bool
) -> None:
    outside, out = tmp_path / "outside", tmp_path / "out"
    if exists:
        outside.write_bytes(b"what was there")

    def plant(done: int, total: int) -> None:
        if not (out / "trap").is_symlink():
            (out / "trap").unlink(missing_ok=True)
            (out / "trap").symlink_to(outside)

    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image, pytest.raises(UsageError):
        extract(image, out, threads=1, progress=plant)
    assert outside.read_bytes() == b"what was there" if exists else not outside.exists()


def test_extraction_opens_a_bounded_number_of_files(tmp_path: Path) -> None:
    tree = [file(f"d{i}/f", b"x") for i in range(300)]
    deep = "/".join("d" for _ in range(100))
    info = seal([*tree, file(f"{deep}/f", b"y")], KEY, tmp_path / "image")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_image(info.path, KEY) as image:
        extract(image, tmp_path / "out")
    assert (tmp_path / "out" / deep / "f").read_bytes() == b"y"
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_tree_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Declared sizes are bounds, and they are known at once."""
    out = tmp_path / "out"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(out)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    info = seal([file("0", b"fits"), file("a", bytes(2 << 20))], KEY, tmp_path / "image")
    try:
        with open_image(info.path, KEY) as image:
            with pytest.raises(UsageError) as caught:
                extract(image, out)
            assert list(out.iterdir()) == []
            extract(image, out, subset=["0"])
    finally:
        subprocess.run(["umount", str(out)], check=True)
    assert (caught.value.code, caught.value.expected) == ("image.destination", "3 MiB")
