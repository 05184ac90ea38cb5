"""Encrypted layers: what skopeo writes is read, and what is written skopeo reads."""

import base64
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.support.containers import File, digest, layer, oci_layout

from casemate.errors import CasemateError, MalformedError, UsageError
from casemate.image.oci import read_container_image
from casemate.image.oci.export import export_layout
from casemate.image.oci.manifest import ContainerConfig
from casemate.image.oci.ocicrypt import (
    KEYS,
    PUBLIC_OPTIONS,
    DecryptedLayer,
    encrypt_layer,
    open_layer,
    parse_annotations,
    parse_private_options,
    read_key,
)
from casemate.image.tree import EntryKind, TreeEntry
from casemate.project.sources import read_source

CONTENT = bytes(range(256)) * 5000
CONFIG = ContainerConfig(
    argv=("/bin/server", "--port=1"), environment={"A": "b"}, working_directory="/srv", user="7:8"
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Key pairs by name, as ``NAME`` and ``NAME.pub``."""
    folder = tmp_path_factory.mktemp("keys")
    pairs = {
        "rsa": rsa.generate_private_key(65537, 2048),
        "other": rsa.generate_private_key(65537, 2048),
        "short": rsa.generate_private_key(65537, 1024),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "ec384": ec.generate_private_key(ec.SECP384R1()),
        "ed": ed25519.Ed25519PrivateKey.generate(),
    }  # fmt: skip
    plain = serialization.NoEncryption()
    pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for name, key in pairs.items():
        private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
        (folder / name).write_bytes(private)
        (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(pem, spki))
    locked = serialization.BestAvailableEncryption(b"password")
    (folder / "locked").write_bytes(
        pairs["rsa"].private_bytes(pem, serialization.PrivateFormat.PKCS8, locked)
    )
    return folder


def public(keys, *names):
    return tuple(read_key(keys / f"{name}.pub", private=False) for name in names)


def private(keys, *names):
    return tuple(read_key(keys / name, private=True) for name in names)


def entries():
    return [
        TreeEntry(path="srv", kind=EntryKind.DIRECTORY, mode=0o755, uid=7),
        TreeEntry(path="srv/a", kind=EntryKind.FILE, mode=0o640, size=len(CONTENT), source=CONTENT),
        TreeEntry(path="srv/b", kind=EntryKind.HARDLINK, mode=0o640, target="srv/a"),
        TreeEntry(path="srv/c", kind=EntryKind.SYMLINK, mode=0o777, target="a"),
    ]


def exported(folder, recipients, **options):
    return export_layout(
        entries(), CONFIG, folder, recipients=recipients, machine=os.uname().machine,
        **{"tag": "latest", **options},
    )  # fmt: skip


def content(container, path="srv/a"):
    (part,) = [entry.source for entry in container.entries if entry.path == path]
    with part.path.open("rb") as file:
        file.seek(part.offset)
        return file.read(len(CONTENT))


def read(folder, keys=()):
    # Wherever these tests run: `test_decrypted_files_on_a_disk` is about what is refused.
    return read_container_image(folder, limit=1 << 24, keys=keys, allow_disk=True)


def descriptor_of(folder):
    """The manifest's path, and the descriptor of its one layer."""
    index = json.loads((folder / "index.json").read_text())
    path = folder / "blobs" / index["manifests"][0]["digest"].replace(":", "/")
    return path, json.loads(path.read_text())


def rewrite(folder, manifest):
    index = json.loads((folder / "index.json").read_text())
    data = json.dumps(manifest).encode()
    index["manifests"][0]["digest"] = digest(data)
    (folder / "blobs" / digest(data).replace(":", "/")).write_bytes(data)
    (folder / "index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def skopeo():
    program = shutil.which("skopeo")
    if program is None:
        pytest.skip("skopeo is not installed")

    def run(*arguments):
        subprocess.run(
            [program, "--insecure-policy", *map(str, arguments)], check=True, timeout=60,
            capture_output=True,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("name", ["rsa", "ec", "ec384"])
def test_what_is_encrypted_is_decrypted(tmp_path, keys, name):
    exported(tmp_path / "image", public(keys, "other", name))
    container = read(tmp_path / "image", private(keys, name))
    assert content(container) == CONTENT
    assert container.config == CONFIG
    assert [(each.path, each.kind, each.target) for each in container.entries] == [
        (each.path, each.kind, each.target) for each in entries()
    ]
    everything = b"".join(p.read_bytes() for p in (tmp_path / "image").rglob("*") if p.is_file())
    assert CONTENT[:4096] not in everything


@pytest.mark.parametrize("given_keys", [(), ("ec",)])
def test_without_the_key_there_is_nothing(tmp_path, keys, given_keys):
    exported(tmp_path / "image", public(keys, "rsa"))
    with pytest.raises(UsageError) as caught:
        read(tmp_path / "image", private(keys, *given_keys))
    assert caught.value.code == "container.encrypted"


@pytest.mark.parametrize("name", ["rsa", "ec"])
def test_skopeo_reads_what_is_written(tmp_path, keys, skopeo, name):
    exported(tmp_path / "image", public(keys, "rsa", "ec"))
    skopeo(
        "copy", "--decryption-key", keys / name, f"oci:{tmp_path}/image:latest",
        f"oci:{tmp_path}/plain:latest",
    )  # fmt: skip
    assert content(read(tmp_path / "plain")) == CONTENT
    with pytest.raises(subprocess.CalledProcessError):
        skopeo(
            "copy", "--decryption-key", keys / "other", f"oci:{tmp_path}/image:latest",
            f"oci:{tmp_path}/nothing:latest",
        )  # fmt: skip


@pytest.mark.parametrize("names", [("rsa",), ("ec",), ("other", "rsa"), ("rsa", "ec384")])
@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_skopeo_writes_is_read(tmp_path, keys, skopeo, names, compression):
    layers = [layer(File("etc")), layer(File("srv/a", CONTENT))]
    oci_layout(tmp_path / "image", layers, compression=compression)
    recipients = [f"--encryption-key=jwe:{keys}/{name}.pub" for name in names]
    skopeo("copy", *recipients, f"oci:{tmp_path}/image:latest", f"oci:{tmp_path}/enc:latest")
    container = read(tmp_path / "enc", private(keys, names[-1]))
    assert content(container) == CONTENT
    assert [entry.path for entry in container.entries] == ["etc", "srv", "srv/a"]


def test_a_sealed_image_comes_of_an_encrypted_one(tmp_path, keys):
    exported(tmp_path / "image", public(keys, "ec"), tag="1.0")
    tree = read_source(f"oci:{tmp_path}/image:1.0", decryption_keys=(keys / "ec",), allow_disk=True)
    assert content(tree.container) == CONTENT


def test_without_recipients_the_same_tree_gives_the_same_image(tmp_path):
    digests = {exported(tmp_path / name, ()).digest for name in "ab"}
    assert len(digests) == 1
    assert content(read(tmp_path / "a")) == CONTENT


def test_keys_differ_from_layer_to_layer(tmp_path, keys):
    recipients = public(keys, "ec")
    for name in "ab":
        exported(tmp_path / name, recipients)
    assert descriptor_of(tmp_path / "a")[1]["layers"] != descriptor_of(tmp_path / "b")[1]["layers"]


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "kept").write_text("")
    with pytest.raises(UsageError) as caught:
        exported(tmp_path, ())
    assert caught.value.code == "image.destination"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_nothing_stays_of_an_image_that_can_not_be_written(tmp_path, keys):
    gone = TreeEntry(path="x", kind=EntryKind.FILE, mode=0o644, size=5, source=tmp_path / "absent")
    with pytest.raises(UsageError):
        export_layout(
            [*entries(), gone], CONFIG, tmp_path / "image", tag="a",
            recipients=public(keys, "ec"), machine="x86_64",
        )  # fmt: skip
    assert list((tmp_path / "image").iterdir()) == []


@pytest.mark.parametrize("where", [0, 4, 1000, -1])  # 4: gzip's time, which nobody looks at
def test_a_changed_byte_of_the_ciphertext(tmp_path, keys, where):
    """Under a manifest that fits: whoever has the public key alone can't do better."""
    exported(tmp_path / "image", public(keys, "ec"))
    _, manifest = descriptor_of(tmp_path / "image")
    descriptor = manifest["layers"][0]
    blob = tmp_path / "image/blobs" / descriptor["digest"].replace(":", "/")
    data = bytearray(blob.read_bytes())
    data[where] ^= 1
    descriptor["digest"] = digest(bytes(data))
    (tmp_path / "image/blobs" / descriptor["digest"].replace(":", "/")).write_bytes(data)
    rewrite(tmp_path / "image", manifest)
    with pytest.raises(CasemateError) as caught:
        read(tmp_path / "image", private(keys, "ec"))
    assert caught.value.code in ("container.changed", "container.layer")
    assert caught.value.code == "container.changed" or where != 4


def test_the_layer_of_another_image(tmp_path, keys):
    for name, tree in (("a", entries()), ("b", entries()[:1])):
        export_layout(
            tree, CONFIG, tmp_path / name, tag="latest", recipients=public(keys, "ec"),
            machine=os.uname().machine,
        )  # fmt: skip
    shutil.copytree(
        tmp_path / "b", tmp_path / "a", dirs_exist_ok=True, ignore=lambda *_: ["index.json"]
    )
    _, manifest = descriptor_of(tmp_path / "a")
    manifest["layers"] = descriptor_of(tmp_path / "b")[1]["layers"]
    rewrite(tmp_path / "a", manifest)
    with pytest.raises(CasemateError) as caught:
        read(tmp_path / "a", private(keys, "ec"))
    assert caught.value.code == "container.changed"


def test_the_hmac_alone_would_find_a_changed_byte(tmp_path, keys):
    plain = os.urandom(100_000)
    with (tmp_path / "out").open("wb") as output:
        written = encrypt_layer(iter([plain]), output, public(keys, "ec"))
    sealing = parse_annotations(written.annotations)
    key = open_layer(sealing, private(keys, "ec"))
    data = bytearray((tmp_path / "out").read_bytes())
    for change in (0, 1):
        data[50_000] ^= change
        (tmp_path / "out").write_bytes(data)
        with (tmp_path / "out").open("rb") as file, DecryptedLayer(file, key, sealing) as opened:
            if change:
                with pytest.raises(CasemateError, match="isn't what was encrypted"):
                    opened.finish()
            else:
                assert opened.read(10) == plain[:10]
                opened.finish()
    data[50_000] ^= 1
    (tmp_path / "out").write_bytes(data)
    other = dataclasses.replace(key, digest=digest(b"another layer"))
    with (tmp_path / "out").open("rb") as file, DecryptedLayer(file, other, sealing) as opened:
        with pytest.raises(CasemateError) as caught:
            opened.finish()
        assert caught.value.field == "a decrypted layer"


@pytest.mark.parametrize("name", ["short", "ed", "locked", "absent", "rsa.pub"])
def test_keys_that_will_not_do(keys, name):
    with pytest.raises(UsageError) as caught:
        read_key(keys / name, private=True)
    assert caught.value.code == "container.key"
    with pytest.raises(UsageError):
        read_key(keys / "rsa", private=False)


def encoded(value):
    return base64.b64encode(json.dumps(value).encode()).decode()


PUBLIC = {"cipher": "AES_256_CTR_HMAC_SHA256", "hmac": base64.b64encode(bytes(32)).decode()}


@pytest.mark.parametrize(
    "annotations",
    [
        {}, {KEYS: encoded({})}, {KEYS: 5, PUBLIC_OPTIONS: encoded(PUBLIC)},
        {KEYS: "?", PUBLIC_OPTIONS: encoded(PUBLIC)},
        {KEYS: encoded([]), PUBLIC_OPTIONS: encoded(PUBLIC)},
        {KEYS: ",".join([encoded({})] * 65), PUBLIC_OPTIONS: encoded(PUBLIC)},
        {KEYS: encoded({"recipients": []}), PUBLIC_OPTIONS: encoded(PUBLIC)},
        {KEYS: encoded({"recipients": [5]}), PUBLIC_OPTIONS: encoded(PUBLIC)},
        {KEYS: encoded({}), PUBLIC_OPTIONS: encoded(PUBLIC | {"cipher": "ROT13"})},
        {KEYS: encoded({}), PUBLIC_OPTIONS: encoded(PUBLIC | {"hmac": "AAAA"})},
        {KEYS: encoded({}), PUBLIC_OPTIONS: encoded(PUBLIC | {"hmac": 5})},
    ],
)  # fmt: skip
def test_annotations_that_can_not_be(annotations):
    with pytest.raises(MalformedError):
        parse_annotations(annotations)


@given(st.binary(max_size=200) | st.from_regex(r'\{"symkey":.{0,40}\}').map(str.encode))
def test_private_options_are_parsed_or_malformed(data):
    with contextlib.suppress(MalformedError):
        assert len(parse_private_options(data).nonce) == 16


NAMES = (
    "protected", "header", "recipients", "encrypted_key", "iv", "ciphertext", "tag", "unprotected",
    "aad",
)  # fmt: skip
HEADERS = st.lists(st.dictionaries(st.just("header"), st.text(max_size=4)), max_size=2)


@given(
    st.dictionaries(
        st.sampled_from(NAMES), st.text(max_size=8) | st.none() | st.integers() | HEADERS
    )
)
def test_an_envelope_that_is_none_opens_nothing(keys, envelope):
    with pytest.raises(CasemateError):
        open_layer(
            parse_annotations({KEYS: encoded(envelope), PUBLIC_OPTIONS: encoded(PUBLIC)}),
            private(keys, "ec"),
        )
