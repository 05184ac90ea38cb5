from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from tests.support.failing_calls import failing, needs_failing_calls
from tests.support.forged_images import forge
from tests.support.trees import (
    CHUNK,
    KEY,
    OTHER_KEY,
    directory,
    file,
    hardlink,
    make_folder,
    seal_folder,
    symlink,
    varied,
)

from casemate.errors import UsageError
from casemate.image.format import encode_toc
from casemate.image.keys import encode_key_file
from casemate.image.payload import PayloadReader, lay_out
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import TreeEntry, normalised, tree_from_directory
from casemate.project.programs import casemate_command, run_program
from casemate.types import Secret


def payload_of(entries: tuple[TreeEntry, ...]) -> bytes:
    layout = lay_out(normalised(entries))
    buffer = bytearray(layout.size)
    with PayloadReader(layout) as reader:
        reader.fill(memoryview(buffer), 0)
    return bytes(buffer)


def test_the_same_tree_and_key_give_the_same_file(tmp_path: Path) -> None:
    one, two = make_folder(tmp_path / "one"), make_folder(tmp_path / "two")
    for path in two.rglob("*"):
        os.utime(path, (5, 5), follow_symlinks=False)
        if os.geteuid() == 0:
            os.chown(path, 7, 7, follow_symlinks=False)
    first = seal(tree_from_directory(one), KEY, tmp_path / "1", threads=1)
    second = seal(reversed(tree_from_directory(two)), KEY, tmp_path / "2", threads=3)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.id == second.id


def test_another_key_or_content_gives_another_salt_and_id(tmp_path: Path) -> None:
    images = [
        seal([file("a", content)], key, tmp_path / "image")
        for content, key in ((b"1", KEY), (b"2", KEY), (b"1", OTHER_KEY))
    ]
    assert len({image.id for image in images}) == 3


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1536, CHUNK - 1535, CHUNK, 2 * CHUNK + 5])
def test_sealing_agrees_with_the_specification_followed_by_hand(tmp_path: Path, size: int) -> None:
    tree = (file("a/b", varied(size)), symlink("l", "a/b"), hardlink("z", "a/b"))
    info = seal(tree, KEY, tmp_path / "image")
    layout = lay_out(normalised(tree))
    by_hand = forge(payload_of(tree), encode_toc(layout.toc()), KEY.reveal())
    assert info.path.read_bytes() == by_hand.to_bytes()
    assert str(info.id) == by_hand.id()
    assert info.file_size == info.path.stat().st_size


def test_the_payload_is_a_tar_archive_that_others_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "tree")
    tree = tree_from_directory(folder)
    tree += (
        TreeEntry(
            path="owned",
            kind=tree[-1].kind,
            mode=0o4755,
            uid=3_000_000,
            gid=2**32 - 1,
            mtime=1_700_000_000,
            size=3,
            source=b"abc",
            xattrs=(("user.a", b"1"), ("user.b", b"\x00\xff")),
        ),
    )
    with tarfile.open(fileobj=io.BytesIO(payload_of(tree))) as archive:
        members = {member.name: member for member in archive}
        assert list(members) == [entry.path for entry in normalised(tree)]
        content = archive.extractfile("bin/tool")
        assert content is not None
        assert content.read() == (folder / "bin/tool").read_bytes()
    assert members["etc/link"].linkname == "../bin/tool"
    assert members["etc/nothing too"].islnk()
    owned = members["owned"]
    assert (owned.uid, owned.gid, owned.mtime, owned.mode) == (
        3_000_000, 2**32 - 1, 1_700_000_000, 0o4755,
    )  # fmt: skip
    assert owned.pax_headers["SCHILY.xattr.user.a"] == "1"


@pytest.mark.parametrize("before", [b"", b"shift", bytes(CHUNK - 2048), bytes(CHUNK - 1536)])
@pytest.mark.parametrize("name", ["large", "n" * 101])
def test_a_large_file_begins_with_a_chunk(tmp_path: Path, before: bytes, name: str) -> None:
    large, smaller = varied(1 << 20), varied((1 << 20) - 1)
    tree = (file("0", before), file(name, large), file("z", smaller), file("zz", large))
    payload = payload_of(tree)
    with tarfile.open(fileobj=io.BytesIO(payload)) as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
    assert list(found) == ["0", name, "z", "zz"]
    (tmp_path / "tar").write_bytes(payload)
    listed = subprocess.run(
        ["tar", "-tf", tmp_path / "tar"], capture_output=True, text=True, check=True
    )
    assert listed.stdout.split() == list(found)
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        image.verify_all()
        assert [image.entry(each).offset % CHUNK for each in (name, "zz")] == [0, 0]
        assert image.entry("z").offset - image.entry(name).offset == (1 << 20) + 512
        assert [image.read_file(each) for each in (name, "z")] == [large, smaller]


def test_any_range_of_a_payload_can_be_made_on_its_own() -> None:
    tree = normalised([file(f"f{i:03}", varied(i * 37, i)) for i in range(60)])
    whole, layout = payload_of(tree), lay_out(tree)
    with PayloadReader(layout) as reader:
        for start in range(0, layout.size, 997):
            buffer = bytearray(min(1500, layout.size - start))
            reader.fill(memoryview(buffer), start)
            assert buffer == whole[start : start + len(buffer)]


class _ChangesAfterTheFirstPass:
    """Progress that changes a file when the first pass is done: what a busy directory does."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content, self.done = path, content, False

    def __call__(self, done: int, total: int) -> None:
        if not self.done and done >= total // 2:
            self.done = True
            self.path.write_bytes(self.content)


@pytest.mark.parametrize("content", [b"B" * 5000, b"A" * 4999, b""])
def test_input_that_changes_between_the_passes_is_an_error(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "data").write_bytes(b"A" * 5000)
    tree = tree_from_directory(folder)
    with pytest.raises(UsageError) as caught:
        seal(
            tree,
            KEY,
            tmp_path / "image",
            threads=1,
            progress=_ChangesAfterTheFirstPass(folder / "data", content),
        )
    assert caught.value.code == "image.changed-while-sealing"
    assert caught.value.message.startswith("data changed")
    assert [path.name for path in tmp_path.iterdir()] == ["tree"], "nothing may be left behind"


def test_a_file_swapped_for_a_pipe_or_link_is_an_error_not_a_wait(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "data").write_bytes(b"A")
    tree = tree_from_directory(folder)
    (folder / "data").unlink()
    os.mkfifo(folder / "data")
    with pytest.raises(UsageError, match="changed"):
        seal(tree, KEY, tmp_path / "image")
    (folder / "data").unlink()
    (folder / "data").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="can't be read"):
        seal(tree, KEY, tmp_path / "image")


def test_an_image_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    destination = tmp_path / "image"
    seal([file("a", b"old")], KEY, destination)
    before = destination.read_bytes()
    folder = tmp_path / "tree"
    folder.mkdir()
    (folder / "gone").write_bytes(b"A")
    tree = tree_from_directory(folder)
    (folder / "gone").unlink()
    with pytest.raises(UsageError):
        seal(tree, KEY, destination)
    assert destination.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image", "tree"]


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as caught:
        seal([file("a", b"")], KEY, tmp_path / "file" / "image")
    assert caught.value.code == "image.unwritable"


@needs_failing_calls
@pytest.mark.parametrize(
    ("call", "number", "error", "status"),
    [
        ("openat", 2, "EOPNOTSUPP", 0),  # a file system without files that have no name yet
        ("openat", 2, "ENOSPC", 2),
        ("fsync", 1, "EIO", 2),
        ("linkat", 1, "ENOSPC", 2),
        ("renameat", 1, "EIO", 2),
    ],
)
def test_whatever_fails_leaves_a_whole_image_or_none(
    tmp_path: Path, call: str, number: int, error: str, status: int
) -> None:
    if call == "linkat":
        try:
            os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600))
        except OSError as why:
            pytest.skip(f"this file system has no files without a name: {why}")
    folder, info = seal_folder(tmp_path)
    (images := tmp_path / "images").mkdir()
    (tmp_path / "key").write_bytes(encode_key_file(KEY).reveal())
    command = casemate_command(
        "image", "seal", str(folder), str(images / "image"), "--key", str(tmp_path / "key")
    )
    about = str(images) if call == "openat" else None
    done = run_program(failing(command, call, number, error=error, path=about))
    assert (done.status, "image.unwritable" in done.stderr) == (status, bool(status)), done.stderr
    assert [path.read_bytes() for path in images.iterdir()] == (
        [] if status else [info.path.read_bytes()]
    )


def test_a_device_or_pipe_keeps_its_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(UsageError) as caught:
            seal([file("a", b"")], KEY, tmp_path / name)
        assert caught.value.code == "image.unwritable"
        assert caught.value.field == str(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()


def test_progress_counts_up_to_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    seal(
        [file("a", varied(3 * CHUNK))],
        KEY,
        tmp_path / "image",
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_a_key_of_16_bytes_seals_too(tmp_path: Path) -> None:
    key = Secret(bytes(16))
    info = seal([file("a", b"content")], key, tmp_path / "image")
    with open_image(info.path, key, info.id) as image:
        assert image.read_file("a") == b"content"


def test_an_empty_tree_seals(tmp_path: Path) -> None:
    info = seal([], KEY, tmp_path / "image")
    with open_image(info.path, KEY, info.id) as image:
        assert dict(image.entries) == {}
        image.verify_all()


def test_memory_does_not_grow_with_the_content(tmp_path: Path) -> None:
    folder = tmp_path / "tree"
    folder.mkdir()
    with (folder / "sparse").open("wb") as sparse:
        sparse.truncate(64 << 20)
    import tracemalloc

    tracemalloc.start()
    try:
        seal(tree_from_directory(folder), KEY, tmp_path / "image")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_the_file_holds_no_plaintext(tmp_path: Path) -> None:
    _, info = seal_folder(tmp_path)
    data = info.path.read_bytes()
    for telltale in (b"hello", b"tool", b"etc/", b"ustar", varied(64)):
        assert telltale not in data
    assert hashlib.sha384(data[12 : 12 + int.from_bytes(data[8:12], "big")]).digest() == info.id


def test_directories_may_be_given_after_what_lies_in_them(tmp_path: Path) -> None:
    info = seal([file("d/e/f", b"1"), directory("d", 0o700)], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        assert [(e.path, e.mode) for e in image] == [
            ("d", 0o700),
            ("d/e", 0o755),
            ("d/e/f", 0o644),
        ]
