"""A container image whose layers reach out of it, or hide what they bring (threat model, P12).

Its maker controls every layer. They want files of the machine that seals to come into the image, a
file of the image to land elsewhere when it is extracted, or the machine to run out of something.
"""

import os
import tarfile

import pytest
from tests.support.containers import File, layer, oci_layout
from tests.support.trees import KEY

from casemate.errors import CasemateError
from casemate.image.extract import extract
from casemate.image.oci import read_container_image
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind

SECRET = b"a secret of the machine that seals"


class World:
    def __init__(self, tmp_path):
        self.folder = tmp_path / "image"
        self.out = tmp_path / "out"
        (tmp_path / "private").mkdir()
        self.secret = tmp_path / "private/secret"
        self.secret.write_bytes(SECRET)
        self.sealed = tmp_path / "sealed"

    def read(self, *layers):
        oci_layout(self.folder, [layer(*files) for files in layers])
        return read_container_image(self.folder, limit=1 << 24)

    def extracted(self, *layers):
        """Seal and extract; nothing may be outside."""
        tree = self.read(*layers)
        before = sorted(self.out.parent.rglob("*"))
        info = seal(tree.entries, KEY, self.sealed)
        with open_image(self.sealed, KEY, info.id) as image:
            extract(image, self.out)
        new = set(self.out.parent.rglob("*")) - set(before) - {self.sealed}
        assert all(path.is_relative_to(self.out) for path in new)
        assert self.secret.read_bytes() == SECRET
        for path in self.out.rglob("*"):
            if path.is_file() and not path.is_symlink():
                assert SECRET not in path.read_bytes()
        return tree


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "a/.."])
def test_names_that_climb(world, name):
    with pytest.raises(CasemateError) as caught:
        world.read([File(name, b"x")])
    assert caught.value.code == "container.layer"


def test_a_file_through_a_link_to_the_machines_own_folder(world):
    tree = world.extracted(
        [File("a", link=str(world.secret.parent)), File("b", link="../../../..")],
        [File("a/secret", b"overwritten"), File("b/etc/passwd", b"root::0:0")],
    )
    kinds = {entry.path: entry.kind for entry in tree.entries}
    assert kinds["a"] is EntryKind.SYMLINK
    assert kinds[f"{str(world.secret).lstrip('/')}"] is EntryKind.FILE, "within the image"
    assert kinds["etc/passwd"] is EntryKind.FILE


@pytest.mark.parametrize("target", ["{}", "../../{}", "a/{}"])
def test_a_hard_link_to_a_file_of_the_machine(world, target):
    name = target.format(str(world.secret).lstrip("/"))
    with pytest.raises(CasemateError) as caught:
        world.read([File("a"), File("l", link=name, hard=True)])
    assert caught.value.code == "container.layer"


def test_a_hard_link_through_a_link_to_a_file_of_the_machine(world):
    with pytest.raises(CasemateError):
        world.read(
            [File("a", link=str(world.secret.parent)), File("l", link="a/secret", hard=True)]
        )


def test_a_hard_link_to_a_link(world):
    """It shares the link, and not what the link means."""
    tree = world.extracted([File("a", link=str(world.secret)), File("l", link="a", hard=True)])
    assert {entry.kind for entry in tree.entries} == {EntryKind.SYMLINK}


def test_whiteouts_take_nothing_of_the_machine(world):
    world.extracted(
        [File("a", link=str(world.secret.parent))],
        [File("a/.wh.secret", b""), File("a/.wh..wh..opq", b"")],
    )
    assert world.secret.exists()


@pytest.mark.parametrize("name", ["a/.wh..", "a/.wh...", ".wh.", ".wh.."])
def test_whiteouts_of_the_folders_above(world, name):
    with pytest.raises(CasemateError):
        world.read([File("a/b", b"")], [File(name, b"")])


def test_links_without_end(world):
    with pytest.raises(CasemateError):
        world.read([File("a", link="b"), File("b", link="a")], [File("a/x", b"")])


def test_a_layer_that_is_a_link_in_the_layout(world):
    world.read([File("a", b"")])
    for blob in (world.folder / "blobs/sha256").iterdir():
        blob.unlink()
        blob.symlink_to(world.secret)
    with pytest.raises(CasemateError) as caught:
        read_container_image(world.folder, limit=1 << 24)
    assert caught.value.code == "container.missing"
    assert SECRET.decode() not in str(caught.value)


@pytest.mark.parametrize("kind", [b"3", b"4", b"6"])
def test_devices_and_pipes(world, kind):
    tree = world.extracted([File("dev/x", b"", kind=kind), File("a", b"")])
    assert {entry.path for entry in tree.entries} == {"a"}
    assert tree.warnings


def test_modes_that_raise_rights_do_not_without_being_asked_for(world):
    world.extracted([File("su", b"x", mode=0o4755)])
    assert (world.out / "su").stat().st_mode & 0o6000 == 0


@pytest.mark.parametrize("size", [1, 3 << 20])
def test_capabilities_of_files_do_not_either(world, size):
    """Extracted by root, they would make anybody who runs the file root."""
    raises = bytes.fromhex("0100000280000000000000000000000000000000")  # setuid, in effect
    pax = {"SCHILY.xattr.security.capability": raises.decode("utf-8", "surrogateescape")}
    tree = world.extracted([File("su", bytes(size), mode=0o755, pax=pax)])
    assert tree.entries[0].xattrs, "it comes into the image"
    assert os.listxattr(world.out / "su") == []


def raw(name, kind, size, content=b""):
    """A member of which the header says whatever size."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def records(count):
    return b"".join(b"%d k%07d=\n" % (13, number) for number in range(count))


END = bytes(1024)
GLOBAL = raw("g", b"g", 13 * 100_000, records(100_000))
ARCHIVES = {
    # Each member gets a copy of what a global header says: 3000 of them would take gigabytes.
    "records for all": GLOBAL + b"".join(raw(f"f{n}", b"0", 0) for n in range(3000)) + END,
    "a header of 2 EiB": raw("x", b"x", 1 << 61) + END,
    "a header of 8 GiB": raw("x", b"x", 8 << 30) + END,
    "a size below 0": raw("a", b"0", -1024) + END,
    "a long name of a negative size": raw("a", b"L", -512) + END,
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_archives_that_take_all_memory(world, what):
    oci_layout(world.folder, [ARCHIVES[what]])
    with pytest.raises(CasemateError) as caught:
        read_container_image(world.folder, limit=1 << 24)
    assert caught.value.code == "container.layer"
    archive = world.folder.with_name("archive.tar")
    archive.write_bytes(ARCHIVES[what])
    with pytest.raises(CasemateError) as caught:
        read_container_image(archive, limit=1 << 24)
    assert caught.value.code == "container.source"


def test_an_archive_whose_parts_are_links_in_a_circle(world):
    world.folder.with_name("a.tar").write_bytes(
        layer(File("manifest.json", link="other"), File("other", link="manifest.json"))
    )
    with pytest.raises(CasemateError) as caught:
        read_container_image(world.folder.with_name("a.tar"), limit=1 << 24)
    assert caught.value.code == "container.missing"


@pytest.mark.parametrize(
    "file", [File("a", link="b/../" * 100_000), File("a/" * 5000 + "b", b"")], ids=["link", "name"]
)
def test_texts_that_take_for_ever_to_follow(world, file):
    with pytest.raises(CasemateError) as caught:
        world.read([file, *(File(f"a/f{n}", b"") for n in range(10))])
    assert caught.value.code == "container.layer"
