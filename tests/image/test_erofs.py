"""A tree as an EROFS device, read by others' programs."""

from __future__ import annotations

import errno
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
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

from casemate.image.erofs import BLOCK, Device, erofs_device, why_not
from casemate.image.fuse_tree import DeviceTree
from casemate.image.fuse_wire import FuseError
from casemate.image.nodes import Nodes
from casemate.image.reader import SealedImage, open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry

_FSCK = Path("/usr/bin/fsck.erofs")
needs_fsck = pytest.mark.skipif(
    not _FSCK.exists(), reason="needs fsck.erofs (tools/install-test-programs)"
)


def device_of(image: SealedImage) -> tuple[Device, DeviceTree]:
    device = erofs_device(Nodes(image))
    return device, DeviceTree(image, device)


def written(image: SealedImage, path: Path, piece: int) -> Path:
    """The whole device as a file, read in pieces of so many bytes."""
    device, tree = device_of(image)
    (node,) = [node for _, node in tree.listing(tree.node(1))[2:]]
    room = bytearray(b"\xff" * piece)  # what was there before must not shine through
    with path.open("wb") as target:
        for offset in range(0, device.size, piece):
            length, rest = tree.read(node, memoryview(room), offset)
            assert (length, rest) == (min(piece, device.size - offset), None)
            target.write(room[:length])
    return path


def unpacked(image: SealedImage, folder: Path, piece: int = 5 * BLOCK) -> Path:
    """The tree, as somebody else's program reads it from the device."""
    packed, target = written(image, folder / "device", piece), folder / "unpacked"
    done = subprocess.run(
        [_FSCK, f"--extract={target}", "--preserve-perms", "--overwrite", packed],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@needs_fsck
@pytest.mark.parametrize("piece", [BLOCK, 3 * BLOCK, 1 << 20])
def test_the_tree_is_read_by_another_program(tmp_path: Path, piece: int) -> None:
    folder, info = seal_folder(tmp_path)
    with open_image(info.path, KEY) as image:
        # It makes a file of its own of each name; tests of the mount look at hard links.
        compare_trees(folder, unpacked(image, tmp_path, piece), links=False)


@needs_fsck
def test_directories_of_many_blocks(tmp_path: Path) -> None:
    names = [f"{'-.~'[i % 3]}{i:04}{'x' * (i % 230)}" for i in range(900)]
    tree = [directory("d"), directory("e"), *(file(f"d/{name}", name.encode()) for name in names)]
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        found = unpacked(image, tmp_path)
        assert {path.name: path.read_text() for path in (found / "d").iterdir()} == {
            name: name for name in names
        }
        assert list((found / "e").iterdir()) == []


_NAMES = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in {".", ".."} and len(name.encode()) <= 200)
_SIZES = st.integers(0, 3) | st.integers(0, 2 * BLOCK + 1) | st.just(CHUNK + 1)


@needs_fsck
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@example({"0": ("l", 256)})
@given(st.dictionaries(_NAMES, st.tuples(st.sampled_from("fdl"), _SIZES), max_size=30))
def test_any_tree(
    tmp_path_factory: pytest.TempPathFactory, plan: dict[str, tuple[str, int]]
) -> None:
    tmp_path, chance = tmp_path_factory.mktemp("any"), random.Random(repr(plan))
    tree, folders = [], [""]
    for name, (kind, size) in plan.items():
        path = chance.choice(folders) + name
        if kind == "d":
            tree.append(directory(path, 0o700 + chance.randrange(64)))
            folders.append(path + "/")
        elif kind == "f":
            tree.append(file(path, varied(size, chance.randrange(99)), 0o600 + size % 64))
        else:
            tree.append(symlink(path, "t" * max(1, min(size, 4000))))
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        found = unpacked(image, tmp_path)
        for entry in image:
            path = found / entry.path
            if entry.kind is EntryKind.SYMLINK:
                assert str(path.readlink()) == entry.target
                continue
            assert path.lstat().st_mode & 0o7777 == entry.mode
            if entry.kind is EntryKind.FILE:
                assert path.read_bytes() == image.read_file(entry)
        # Not by pathlib, which fails at links whose text is no possible name.
        assert sum(len(each) + len(more) for _, each, more in os.walk(found)) == len(tree)


def test_where_a_part_of_the_device_lies(tmp_path: Path) -> None:
    one, two = varied(2 * BLOCK + 5, 1), varied(BLOCK, 2)
    tree = [file("a", one), file("empty", b""), file("z", two), hardlink("zz", "z")]
    info = seal(tree, KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        device, _ = device_of(image)
        head = len(device.computed)
        content = written(image, tmp_path / "whole", 1 << 20).read_bytes()[head:]
        assert content == one + bytes(3 * BLOCK - len(one)) + two
        assert [span.entry.path for span in device.files(0, device.size)] == ["a", "z"]
        assert list(device.files(head + len(one), head + 3 * BLOCK)) == []


def test_the_device_is_one_file_and_nothing_else(tmp_path: Path) -> None:
    info = seal([file("a", b"1")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        device, tree = device_of(image)
        names = [name for name, _ in tree.listing(tree.node(1))]
        assert names == [b".", b"..", b"device"]
        node = tree.child(tree.node(1), b"device")
        assert node is not None
        assert node.mode & 0o7777 == 0o400
        room = bytearray(8)
        assert tree.read(node, memoryview(room), device.size + 5) == (0, None)
        with pytest.raises(FuseError) as caught:
            tree.read(tree.node(1), memoryview(room), 0)
        assert caught.value.number == errno.EISDIR


@pytest.mark.parametrize(
    ("xattrs", "reason"),
    [
        ((("security.b", b"2"), ("trusted.c", b""), ("user.a", b"1")), None),
        ((("system.posix_acl_access", b"2"),), "has no number"),
        (tuple((f"user.{i}", bytes(60000)) for i in range(5)), "too many"),
    ],
)
def test_what_cannot_be_shown_is_told(
    tmp_path: Path, xattrs: tuple[tuple[str, bytes], ...], reason: str | None
) -> None:
    entry = TreeEntry(path="f", kind=EntryKind.FILE, mode=0o644, size=1, source=b"1", xattrs=xattrs)
    info = seal([entry], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        told = why_not(tuple(image))
    assert (told is None) if reason is None else (told is not None and reason in told)


def test_sizes_that_blocks_cannot_count_are_told(tmp_path: Path) -> None:
    info = seal([file("a", b"1")], KEY, tmp_path / "image")
    with open_image(info.path, KEY) as image:
        (entry,) = image
        assert why_not([entry._replace(size=1 << 40)]) is None
        assert why_not([entry._replace(size=1 << 43)]) is not None
