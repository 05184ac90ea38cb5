"""Writing container images: the same bytes everywhere, tags of their own, encrypted layers."""

import json
import subprocess

import pytest
from tests.support.disks import fill, small_disk

from casemate.errors import CasemateError, UsageError
from casemate.image.oci import read_container_image
from casemate.image.oci.ocicrypt import read_key
from casemate.image.oci.write import RunSettings, write_docker_archive, write_oci_layout
from casemate.image.tree import EntryKind, TreeEntry

SETTINGS = RunSettings(
    entrypoint=("/bin/server",), environment={"LANG": "C"}, user="1:1", labels={"title": "it"},
    architecture="amd64",
)  # fmt: skip
SECRET = b"what only the guest may read"


def file(path, content):
    return TreeEntry(path=path, kind=EntryKind.FILE, mode=0o755, size=len(content), source=content)


LAYERS = [(file("bin/server", b"program"),), (file("data/model", SECRET),)]


def paths(folder, tag, **options):
    return [
        each.path for each in read_container_image(folder, tag, limit=1 << 20, **options).entries
    ]


def test_the_same_layers_give_the_same_digest(tmp_path):
    first = write_oci_layout(tmp_path / "a", LAYERS, SETTINGS, tag="it")
    assert write_oci_layout(tmp_path / "b", LAYERS, SETTINGS, tag="other") == first
    assert first != write_oci_layout(tmp_path / "c", LAYERS[:1], SETTINGS, tag="it")


def test_tags_are_beside_each_other_and_the_newer_one_wins(tmp_path):
    write_oci_layout(tmp_path, LAYERS, SETTINGS, tag="one")
    write_oci_layout(tmp_path, LAYERS[:1], SETTINGS, tag="two")
    assert "data/model" in paths(tmp_path, "one")
    assert "data/model" not in paths(tmp_path, "two")
    write_oci_layout(tmp_path, LAYERS[:1], SETTINGS, tag="one")
    assert "data/model" not in paths(tmp_path, "one")
    write_docker_archive(tmp_path / "it.tar", tmp_path, ["two"])
    assert paths(tmp_path / "it.tar", "two") == paths(tmp_path, "two")


def test_a_full_disk_is_said_of_what_is_written_and_leaves_no_archive(tmp_path):
    write_oci_layout(tmp_path / "it", LAYERS, SETTINGS, tag="it")
    with small_disk(tmp_path / "disk") as disk:
        (disk / "layout").mkdir()
        filler = fill(disk)
        for write in (
            lambda: write_oci_layout(disk / "layout", LAYERS, SETTINGS, tag="it"),
            lambda: write_docker_archive(disk / "it.tar", tmp_path / "it", ["it"]),
        ):
            with pytest.raises(UsageError) as caught:
                write()
            assert caught.value.code == "image.unwritable"
            assert "No space left" in str(caught.value.got)
        assert {each.name for each in disk.iterdir()} == {filler.name, "layout"}


def test_encrypted_layers_are_for_their_recipient_alone(tmp_path):
    for command in (
        ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "guest.key"],
        ["pkey", "-in", "guest.key", "-pubout", "-out", "guest.pub"],
    ):
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True)
    recipients = (read_key(tmp_path / "guest.pub", private=False),)
    folder = tmp_path / "layout"
    write_oci_layout(folder, LAYERS, SETTINGS, tag="it", recipients=recipients)
    for blob in (folder / "blobs" / "sha256").iterdir():
        assert SECRET not in blob.read_bytes()
        assert b"program" not in blob.read_bytes()
    with pytest.raises(CasemateError):
        paths(folder, "it")
    keys = (read_key(tmp_path / "guest.key", private=True),)
    assert "data/model" in paths(folder, "it", keys=keys)
    index = json.loads((folder / "index.json").read_text())
    assert len(index["manifests"]) == 1
