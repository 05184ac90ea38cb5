from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from tests.support.trees import directory, file, hardlink, make_folder, symlink

from casemate.errors import UsageError
from casemate.image.tree import EntryKind, TreeEntry, normalised, tree_from_directory


def test_a_directory_becomes_sorted_entries(tmp_path: Path) -> None:
    tree = tree_from_directory(make_folder(tmp_path / "tree"))
    paths = [entry.path for entry in tree]
    assert paths == sorted(paths, key=str.encode)
    by_path = {entry.path: entry for entry in tree}
    assert by_path["bin/tool"].mode == 0o755
    assert by_path["etc/link"].target == "../bin/tool"
    assert by_path["etc/nothing too"].kind is EntryKind.HARDLINK
    assert by_path["etc/nothing too"].target == "etc/nothing"
    assert {(e.uid, e.gid, e.mtime) for e in tree} == {(0, 0, 0)}
    assert normalised(tree) == tree


def test_owner_and_times_are_kept_on_request(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    os.utime(tmp_path / "a", (1, 1_700_000_000))
    (entry,) = tree_from_directory(tmp_path, keep_owner=True, mtime=None)
    assert (entry.uid, entry.gid) == (os.getuid(), os.getgid())
    assert entry.mtime == 1_700_000_000


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "tree" / "dangling").symlink_to("/nowhere")
    assert [(e.path, e.target) for e in tree_from_directory(tmp_path / "tree")] == [
        ("dangling", "/nowhere"),
        ("up", ".."),
    ]


def test_what_cannot_be_sealed_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe") as caught:
        tree_from_directory(tmp_path)
    assert caught.value.code == "image.tree"
    assert caught.value.got == "a pipe"
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket is short
        try:
            server.bind("s")
        finally:
            os.chdir(here)
        with pytest.raises(UsageError) as caught:
            tree_from_directory(tmp_path)
    assert caught.value.got == "a socket"
    (tmp_path / "s").unlink()
    (tmp_path / os.fsdecode(b"\xff")).touch()
    with pytest.raises(UsageError) as caught:
        tree_from_directory(tmp_path)
    assert caught.value.expected == "a name in UTF-8"
    assert "Rename" in (caught.value.remedy or "")


def test_the_remedy_fits_what_is_wrong(tmp_path: Path) -> None:
    def remedy(entry: TreeEntry) -> str:
        with pytest.raises(UsageError) as caught:
            normalised([entry])
        return caught.value.remedy or ""

    old = TreeEntry(path="a", kind=EntryKind.FILE, mode=0o644, mtime=-1, source=b"")
    assert "--keep-times" in remedy(old)
    assert "Rename" in remedy(file("a" * 256, b""))
    with pytest.raises(UsageError) as caught:
        tree_from_directory(tmp_path / "absent")
    assert "Name a directory" in (caught.value.remedy or "")


def test_devices_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        tree_from_directory(Path("/dev"))
    assert caught.value.code == "image.tree"


@pytest.mark.parametrize("path", ["nothing here", "a file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(UsageError, match="can't be sealed"):
        tree_from_directory(tmp_path / path)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "./a",
        "a\0",
        "\udcff",
        "a" * 256,
        "a/" * 2048 + "a",
    ],
    ids=ascii,
)
def test_bad_paths_are_refused(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        normalised([file(path, b"")])
    assert caught.value.code == "image.tree"


@pytest.mark.parametrize(
    "entries",
    [
        [file("a", b""), file("a", b"")],
        [file("a", b""), file("a/b", b"")],
        [symlink("a", "/"), file("a/b", b"")],
        [hardlink("a", "b"), file("b", b"")],
        [hardlink("a", "missing")],
        [directory("a"), hardlink("b", "a")],
        [symlink("a", "")],
        [symlink("a", "x\0")],
        [directory("a", 0o10000)],
        [TreeEntry(path="a", kind=EntryKind.FILE, mode=0, uid=-1, source=b"")],
        [TreeEntry(path="a", kind=EntryKind.FILE, mode=0, mtime=1 << 33, source=b"")],
        [TreeEntry(path="a", kind=EntryKind.FILE, mode=0, size=2, source=b"x")],
        [TreeEntry(path="a", kind=EntryKind.DIRECTORY, mode=0, size=2)],
        [TreeEntry(path="a", kind=EntryKind.DIRECTORY, mode=0, target="x")],
        [TreeEntry(path="a", kind=EntryKind.DIRECTORY, mode=0, xattrs=(("user.a=b", b""),))],
        [TreeEntry(path="a", kind=EntryKind.DIRECTORY, mode=0, xattrs=(("b", b""), ("a", b"")))],
    ],
)
def test_trees_that_do_not_hang_together_are_refused(entries: list[TreeEntry]) -> None:
    with pytest.raises(UsageError) as caught:
        normalised(entries)
    assert caught.value.code == "image.tree"
