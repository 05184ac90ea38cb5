"""Container images become the tree that a container sees, or an error that says what is wrong."""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import tarfile
import tempfile

import pytest
import zstandard
from tests.support.containers import File, digest, docker_archive, layer, oci_layout
from tests.support.disks import small_disk

from casemate.errors import CasemateError, MalformedError, NotGenuineError, UsageError
from casemate.image.oci import read_container_image
from casemate.image.oci.layers import members
from casemate.image.tree import EntryKind, FilePart, normalised
from casemate.project.drafts import draft_contract
from casemate.project.sources import read_source

LIMIT = 1 << 24


def tree(folder, reference="", **options):
    return read_container_image(folder, reference, limit=LIMIT, **options)


def contents(container):
    """What each path holds: bytes, a link's text, or None for a folder."""
    found = {}
    for entry in container.entries:
        if isinstance(entry.source, FilePart):
            with entry.source.path.open("rb") as file:
                file.seek(entry.source.offset)
                found[entry.path] = file.read(entry.size)
        elif entry.kind is EntryKind.FILE:
            found[entry.path] = b""
        else:
            found[entry.path] = entry.target or None
    return found


def flat(tmp_path, *layers):
    oci_layout(tmp_path / "image", [layer(*files) for files in layers])
    container = tree(tmp_path / "image")
    normalised(container.entries)
    return contents(container)


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_upper_layers_cover_lower_ones(tmp_path, compression):
    lower = layer(
        File("etc"), File("etc/motto", b"old"), File("etc/gone", b""), File("bin/tool", b"1")
    )
    upper = layer(File("./etc/motto", b"new"), File("etc/.wh.gone", b""), File("/srv/more", b"2"))
    name = oci_layout(tmp_path / "image", [lower, upper], compression=compression)
    container = tree(tmp_path / "image")
    assert container.digest == name
    assert contents(container) == {
        "bin": None, "bin/tool": b"1", "etc": None, "etc/motto": b"new",
        "srv": None, "srv/more": b"2",
    }  # fmt: skip
    assert container.why["etc/motto"] == "layer 2: RUN step 1"


def test_an_opaque_folder_hides_all_below_and_nothing_beside_it(tmp_path):
    lower = (File("a/one", b"1"), File("a/deep/two", b"2"), File("b/three", b"3"))
    upper = (File("a/new", b"4"), File("a/.wh..wh..opq", b""))
    assert flat(tmp_path, lower, upper) == {
        "a": None, "a/new": b"4", "b": None, "b/three": b"3",
    }  # fmt: skip


def test_a_whiteout_takes_a_whole_folder_away_and_spares_its_own_layer(tmp_path):
    lower = (File("a/one/deep", b"1"),)
    upper = (File("a/one/fresh", b"2"), File("a/.wh.one", b""), File(".wh..wh.plnk", b""))
    assert flat(tmp_path, lower, upper) == {"a": None, "a/one": None, "a/one/fresh": b"2"}


def test_kinds_may_change_from_layer_to_layer(tmp_path):
    lower = (File("x/deep", b"1"), File("y", b"2"), File("z", link="y"))
    upper = (File("x", b"file"), File("y/now", b"folder"), File("z", b"file"))
    with pytest.raises(MalformedError):  # y is a file, and nothing says that it goes
        flat(tmp_path, lower, upper)
    upper = (File("x", b"file"), File("y"), File("y/now", b"folder"), File("z", b"file"))
    assert flat(tmp_path / "again", lower, upper) == {
        "x": b"file", "y": None, "y/now": b"folder", "z": b"file",
    }  # fmt: skip


def test_names_that_share_a_file_keep_sharing_it_until_one_is_replaced(tmp_path):
    lower = (File("m", b"shared"), File("a", link="m", hard=True), File("z", link="m", hard=True))
    oci_layout(tmp_path / "one", [layer(*lower)])
    kinds = {
        entry.path: (entry.kind.value, entry.target) for entry in tree(tmp_path / "one").entries
    }
    assert kinds == {"a": ("file", ""), "m": ("hardlink", "a"), "z": ("hardlink", "a")}
    assert flat(tmp_path / "two", lower, (File("a", b"own"),)) == {
        "a": b"own", "m": b"shared", "z": "m",
    }  # fmt: skip


def test_what_is_put_through_a_link_lands_where_the_link_leads(tmp_path):
    lower = (File("usr/lib"), File("lib", link="usr/lib"), File("up", link="../../usr"))
    upper = (File("lib/a.so", b"1"), File("up/lib/b.so", b"2"), File("lib/.wh.c", b""))
    found = flat(tmp_path, lower, upper)
    assert found["usr/lib/a.so"] == b"1"
    assert found["usr/lib/b.so"] == b"2"


def test_owners_modes_attributes_and_times(tmp_path):
    capability = b"\x01\x00\x00\x02\xff\xfe"
    pax = {
        "SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.note": "x",
        "SCHILY.xattr.security.selinux": "label",
    }
    oci_layout(tmp_path / "image", [layer(File("f", b"1", mode=0o4755, uid=1000, pax=pax))])
    (entry,) = tree(tmp_path / "image").entries
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o4755, 1000, 1000, 0)
    assert entry.xattrs == (("security.capability", capability), ("user.note", b"x"))
    (entry,) = tree(tmp_path / "image", keep_times=True).entries
    assert entry.mtime == 1_700_000_000


def test_devices_are_left_out_and_said_to_be(tmp_path):
    oci_layout(tmp_path / "image", [layer(File("dev/null", kind=tarfile.CHRTYPE), File("f", b"1"))])
    container = tree(tmp_path / "image")
    assert [entry.path for entry in container.entries] == ["f"]
    assert container.warnings == ("dev/null is left out: it is a device, pipe or socket",)


@pytest.mark.parametrize(
    "file",
    [
        File("../out", b"1"),
        File("a/../../out", b"1"),
        File("a", link="../out", hard=True),
        File("a", link="nothing", hard=True),
        File("a/.wh...", b""),
        File("s", b"", kind=tarfile.GNUTYPE_SPARSE),
    ],
    ids=["parent", "deep parent", "hard link out", "hard link to nothing", "whiteout", "sparse"],
)
def test_a_member_that_can_not_be(tmp_path, file):
    oci_layout(tmp_path / "image", [layer(file)])
    with pytest.raises(MalformedError) as caught:
        tree(tmp_path / "image")
    assert caught.value.code == "container.layer"


def test_links_that_go_round_in_circles(tmp_path):
    with pytest.raises(MalformedError):
        flat(tmp_path, (File("a", link="b"), File("b", link="a"), File("a/x", b"1")))


def blob_of(folder, number):
    """The file of a layer."""
    index = json.loads((folder / "index.json").read_text())
    manifest = folder / "blobs" / index["manifests"][0]["digest"].replace(":", "/")
    name = json.loads(manifest.read_text())["layers"][number]["digest"]
    return folder / "blobs" / name.replace(":", "/")


@pytest.mark.parametrize("what", ["layer", "manifest", "config"])
def test_a_changed_part_is_not_taken(tmp_path, what):
    folder = tmp_path / "image"
    oci_layout(folder, [layer(File("a", b"1"))], compression="")
    blobs = {"layer": blob_of(folder, 0)}
    index = json.loads((folder / "index.json").read_text())
    blobs["manifest"] = folder / "blobs" / index["manifests"][0]["digest"].replace(":", "/")
    config = json.loads(blobs["manifest"].read_text())["config"]["digest"]
    blobs["config"] = folder / "blobs" / config.replace(":", "/")
    changed = bytearray(blobs[what].read_bytes())
    changed[-3] ^= 1
    blobs[what].write_bytes(changed)
    with pytest.raises(NotGenuineError) as caught:
        tree(folder)
    assert caught.value.code == "container.changed"


def test_content_that_is_not_what_the_configuration_names(tmp_path):
    """The compressed layer is the one of the manifest, what it holds isn't."""
    folder = tmp_path / "image"
    oci_layout(folder, [layer(File("a", b"1"))])
    index = json.loads((folder / "index.json").read_text())
    path = folder / "blobs" / index["manifests"][0]["digest"].replace(":", "/")
    manifest = json.loads(path.read_text())
    other = oci_layout(tmp_path / "other", [layer(File("a", b"2"))])
    source = tmp_path / "other" / "blobs" / other.replace(":", "/")
    manifest["layers"] = json.loads(source.read_text())["layers"]
    shutil.copytree(tmp_path / "other" / "blobs", folder / "blobs", dirs_exist_ok=True)
    data = json.dumps(manifest).encode()
    (folder / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
    index["manifests"][0]["digest"] = digest(data)
    (folder / "index.json").write_text(json.dumps(index))
    with pytest.raises(NotGenuineError) as caught:
        tree(folder)
    assert caught.value.field == "a layer's content"


def test_a_layer_that_was_compressed_anew(tmp_path):
    """What it holds is right; the bytes aren't those that the manifest names."""
    folder, content = tmp_path / "image", layer(File("a", b"1"))
    oci_layout(folder, [content])
    (blob,) = [p for p in folder.glob("blobs/sha256/*") if p.read_bytes()[:2] == b"\x1f\x8b"]
    blob.write_bytes(gzip.compress(content, mtime=5))
    with pytest.raises(NotGenuineError) as caught:
        tree(folder)
    assert caught.value.field == "a layer"


def test_a_missing_part(tmp_path):
    folder = tmp_path / "image"
    oci_layout(folder, [layer(File("a", b"1"))])
    blob_of(folder, 0).unlink()
    with pytest.raises(MalformedError) as caught:
        tree(folder)
    assert caught.value.code == "container.missing"


def test_a_blob_outside_the_folder_is_missing(tmp_path):
    folder, outside = tmp_path / "image", tmp_path / "outside"
    oci_layout(folder, [layer(File("a", b"1"))])
    blob = blob_of(folder, 0)
    shutil.move(blob, outside)
    blob.symlink_to(outside)
    with pytest.raises(MalformedError) as caught:
        tree(folder)
    assert caught.value.code == "container.missing"


def test_a_bomb_is_cut_off(tmp_path):
    oci_layout(tmp_path / "image", [layer(File("zeros", bytes(LIMIT + 1)))])
    with pytest.raises(UsageError) as caught:
        tree(tmp_path / "image")
    assert caught.value.code == "container.too-large"


@pytest.mark.parametrize("where", ["folder", "archive", "compressed archive"])
def test_a_full_disk_is_said_of_the_place_where_layers_are_unpacked(tmp_path, monkeypatch, where):
    """Not of the image, which is as it should be."""
    image = tmp_path / "image"
    oci_layout(image, [layer(File("a", os.urandom(300_000)))])
    if where != "folder":
        with tarfile.open(tmp_path / "image.tar", "w") as archive:
            archive.add(image, ".")
        image = tmp_path / "image.tar"
    if where == "compressed archive":
        image.write_bytes(gzip.compress(image.read_bytes()))
    with small_disk(tmp_path / "disk") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(UsageError) as caught:
            tree(image)
        assert list(disk.iterdir()) == []
    assert caught.value.code == "image.unwritable"
    assert str(caught.value.field).startswith(str(disk))
    assert "No space left" in str(caught.value.got)


def test_layers_share_one_limit(tmp_path):
    half = layer(File("zeros", bytes(LIMIT // 2 + 1)))
    oci_layout(tmp_path / "image", [half, half])
    with pytest.raises(UsageError):
        tree(tmp_path / "image")


def test_a_header_that_asks_for_memory_gets_none(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    (archive := tmp_path / "tar").write_bytes(info.tobuf() + bytes(4096))
    with pytest.raises(MalformedError):
        list(members(archive))


def test_a_header_that_can_not_be_read_is_not_the_end(tmp_path):
    good = layer(File("a", b"1"), File("b", b"2"))
    broken = bytearray(good)
    broken[1024 + 148] ^= 1  # the checksum of b's header
    (archive := tmp_path / "tar").write_bytes(broken)
    with pytest.raises(MalformedError):
        list(members(archive))


def test_archives_cut_anywhere_give_whole_members_or_are_malformed(tmp_path):
    whole = layer(File("a", b"1" * 700), File("b", b"2"))
    archive = tmp_path / "tar"
    for end in range(0, len(whole), 128):
        archive.write_bytes(whole[:end])
        try:
            for member in members(archive):
                assert member.content.offset + member.size <= end
        except MalformedError:
            continue


def test_docker_archives(tmp_path):
    path = tmp_path / "image.tar"
    docker_archive(path, [layer(File("a", b"1")), layer(File("b", b"2"))])
    assert contents(tree(path)) == {"a": b"1", "b": b"2"}
    assert contents(tree(path, "1.0")) == {"a": b"1", "b": b"2"}
    with pytest.raises(UsageError) as caught:
        tree(path, "2.0")
    assert "demo:1.0" in caught.value.got


@pytest.mark.parametrize("name", ["1.0", "demo:1.0", "library/demo:1.0", "host/library/demo:1.0"])
def test_an_image_in_a_docker_archive_is_named_as_docker_names_it(tmp_path, name):
    path = tmp_path / "with:colon.tar"
    docker_archive(path, [layer(File("a", b"1"))], tag="host/library/demo:1.0")
    source = read_source(f"docker-archive:{path}:{name}")
    assert [entry.path for entry in source.entries] == ["a"]
    for other in ("emo:1.0", "0", "demo:1.00", "demo"):
        with pytest.raises(UsageError) as caught:
            read_source(f"docker-archive:{path}:{other}")
        assert caught.value.code == "container.reference"


def test_an_archive_that_tar_made_of_a_layout(tmp_path):
    digest = oci_layout(tmp_path / "image", [layer(File("a", b"1"))])
    subprocess.run(
        ["tar", "-C", tmp_path / "image", "-cf", tmp_path / "image.tar", "."], check=True
    )
    container = tree(tmp_path / "image.tar")
    assert (container.digest, contents(container)) == (digest, {"a": b"1"})


PACKERS = {
    "gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstandard.compress,
}  # fmt: skip


@pytest.mark.parametrize("name", PACKERS)
def test_archives_that_are_compressed_as_a_whole(tmp_path, name):
    path = tmp_path / "image.tar"
    docker_archive(path, [layer(File("a", b"1")), layer(File("b", b"2"))])
    packed = PACKERS[name](path.read_bytes())
    path.write_bytes(packed)
    assert contents(tree(path)) == {"a": b"1", "b": b"2"}
    for broken in (packed[:-9], packed[: len(packed) // 2], packed[:20] + bytes(20) + packed[40:]):
        path.write_bytes(broken)
        with pytest.raises(CasemateError):
            tree(path)
    path.write_bytes(PACKERS[name](bytes(2 * LIMIT)))
    with pytest.raises(UsageError) as caught:
        tree(path)
    assert caught.value.code == "container.too-large"


def test_layers_with_frames_to_be_skipped(tmp_path):
    """As zstd:chunked has them for its table of contents."""
    data = layer(File("a", b"1"))
    oci_layout(tmp_path / "image", [data], compression="zstd")
    packed = zstandard.compress(data)
    blob = tmp_path / "image/blobs/sha256" / digest(packed)[7:]
    longer = packed + b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"table"
    text = "".join(p.read_text() for p in (tmp_path / "image/blobs/sha256").glob("*") if p != blob)
    assert digest(packed)[7:] in text
    blob.with_name(digest(longer)[7:]).write_bytes(longer)
    index = tmp_path / "image/index.json"
    name = json.loads(index.read_text())["manifests"][0]["digest"]
    manifest = (tmp_path / "image/blobs" / name.replace(":", "/")).read_text()
    manifest = manifest.replace(digest(packed), digest(longer)).encode()
    (tmp_path / "image/blobs" / digest(manifest).replace(":", "/")).write_bytes(manifest)
    index.write_text(index.read_text().replace(name, digest(manifest)))
    assert contents(tree(tmp_path / "image")) == {"a": b"1"}


def test_one_of_several_images_is_named(tmp_path):
    folder = tmp_path / "image"
    one = oci_layout(folder, [layer(File("a", b"1"))], tag="one")
    oci_layout(folder, [layer(File("a", b"2"))], tag="two")
    assert contents(tree(folder, "two")) == {"a": b"2"}
    assert contents(tree(folder, one)) == {"a": b"1"}
    with pytest.raises(UsageError) as caught:
        tree(folder)
    assert caught.value.got == "one, two"
    with pytest.raises(UsageError) as caught:
        tree(folder, "three")
    assert caught.value.got == "one, two"


def test_how_it_is_run(tmp_path):
    config = {
        "Entrypoint": ["/bin/server"], "Cmd": ["--port=1"], "Env": ["A=b=c", "PATH=/bin"],
        "WorkingDir": "/srv", "User": "1000:1000",
    }  # fmt: skip
    oci_layout(tmp_path / "image", [layer(File("a", b"1"))], config=config)
    found = tree(tmp_path / "image").config
    assert found.argv == ("/bin/server", "--port=1")
    assert found.environment == {"A": "b=c", "PATH": "/bin"}
    assert (found.working_directory, found.user) == ("/srv", "1000:1000")


@pytest.mark.parametrize("name", ["", "@", ":two"])
def test_sources_are_named_on_the_command_line(tmp_path, name):
    folder = tmp_path / "image"
    one = oci_layout(folder, [layer(File("a", b"1"))], tag="two")
    name = f"@{one}" if name == "@" else name
    assert [entry.path for entry in read_source(f"oci:{folder}{name}").entries] == ["a"]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive", "dir-to-oci"])
def test_what_skopeo_writes_is_read(tmp_path, kind):
    """Another tool's hand: from our layout to its own forms."""
    folder = tmp_path / "image"
    files = (File("etc/motto", b"x" * 10_000), File("l", link="etc/motto"))
    oci_layout(folder, [layer(*files), layer(File("etc/.wh.motto", b""), File("new", b"1"))])
    target = {
        "docker-archive": f"docker-archive:{tmp_path / 'out'}:demo:1.0",
        "oci-archive": f"oci-archive:{tmp_path / 'out'}:1.0",
        "dir-to-oci": f"oci:{tmp_path / 'out'}:1.0",
    }[kind]
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "--quiet", f"oci:{folder}:latest", target],
        check=True, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert contents(tree(tmp_path / "out")) == {"etc": None, "l": "etc/motto", "new": b"1"}


ENTRYPOINT = """#!/bin/sh
exec tensorflow_model_server --port=8500 --rest_api_port=8501 --model_name=${MODEL_NAME} \\
  --model_base_path=${MODEL_BASE_PATH}/${MODEL_NAME} "$@"
"""


@pytest.mark.skipif(shutil.which("buildah") is None, reason="needs buildah")
@pytest.mark.skipif(os.geteuid() != 0, reason="buildah needs root here")
@pytest.mark.parametrize("target", ["oci:{}:1.0", "docker-archive:{}:demo:1.0"])
def test_an_image_of_the_shape_of_tensorflow_serving_from_buildah(tmp_path, target):
    """Three layers: a system, the server with its entry point, a model in place of another."""

    def buildah(*arguments):
        done = subprocess.run(
            ["buildah", "--storage-driver=vfs", f"--root={tmp_path}/root",
             f"--runroot={tmp_path}/run", *map(str, arguments)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if "not permitted" in done.stderr:
            pytest.skip(f"buildah may not work here: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def layered(base, name, *settings, add, remove=()):
        container = buildah("from", "--pull-never", base)
        buildah("copy", container, add, "/")
        mounted = buildah("mount", container)
        for path in remove:
            shutil.rmtree(f"{mounted}/{path}")
        if name == "serving":
            os.link(f"{mounted}/usr/bin/tensorflow_model_server", f"{mounted}/usr/bin/also")
        buildah("umount", container)
        buildah("config", *settings, container)
        buildah("commit", container, name)

    for folder, files in {
        "system": {"etc/passwd": "serving:x:999:998::/:/bin/sh\n", "models/old/1/a": "old"},
        "server": {
            "usr/bin/tensorflow_model_server": "server",
            "usr/bin/tf_serving_entrypoint.sh": ENTRYPOINT,
        },
        "model": {"models/model/1/saved_model.pb": "graph"},
    }.items():
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
    layered("scratch", "base", add=tmp_path / "system")
    layered(
        "base", "serving", "--entrypoint", '["/usr/bin/tf_serving_entrypoint.sh"]',
        "--env", "MODEL_BASE_PATH=/models", "--env", "MODEL_NAME=model", "--port", "8500",
        "--user", "serving", add=tmp_path / "server",
    )  # fmt: skip
    layered("serving", "final", add=tmp_path / "model", remove=["models/old"])
    buildah("push", "final", target.format(tmp_path / "out"))
    source = target.format(tmp_path / "out").removesuffix(":demo:1.0")
    container = read_source(source).container
    found = contents(container)
    assert found["usr/bin/tf_serving_entrypoint.sh"] == ENTRYPOINT.encode()
    assert found["models/model/1/saved_model.pb"] == b"graph"
    assert not any(path.startswith("models/old") for path in found)
    kinds = {entry.path: entry.kind for entry in container.entries}
    assert kinds["usr/bin/tensorflow_model_server"] is EntryKind.HARDLINK
    draft = draft_contract(container, tmp_path / "root.sealed", tmp_path / "image_key")
    assert 'argv = ["/usr/bin/tf_serving_entrypoint.sh"]' in draft
    assert '"MODEL_BASE_PATH" = "/models"' in draft
    assert "uid = 999\ngid = 998" in draft


def test_nothing_is_left_where_layers_were_unpacked(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    oci_layout(tmp_path / "image", [layer(File("a", b"1")), layer(File("../b", b"1"))])
    with pytest.raises(CasemateError):
        tree(tmp_path / "image")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_kit_makes_archives_that_tar_reads():
    """So that the cases above are of the format, and not of a fault of ours."""
    data = layer(File("a", b"1"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == ["a"]
    assert digest(b"") == f"sha256:{hashlib.sha256(b'').hexdigest()}"
