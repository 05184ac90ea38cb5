"""A container image whose layers reach out of it, or hide what they bring (threat model, P12).

Its maker controls every layer. They want files of the machine that seals to come into the image, a
file of the image to land elsewhere when it is extracted, or the machine to run out of something.
"""

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
