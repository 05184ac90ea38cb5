"""Container images of a project: the same everywhere, nothing secret, and what they are made of."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from tests.client.test_predict import Peer, answer
from tests.project.conftest import written
from tests.support.attested import policy_document
from tests.support.attested_servers import CONTRACT, OTHER_CONTRACT, minted
from tests.support.demo_data import demo_file
from tests.support.launches import root_choices

from casemate.image.oci import read_container_image
from casemate.image.tree import EntryKind
from casemate.project.package import Part
from casemate.tee.simulated import measure_launcher


def config_of(folder, packaged):
    blobs = folder / "blobs" / "sha256"
    manifest = json.loads((blobs / packaged.image.digest[7:]).read_text())
    return json.loads((blobs / manifest["config"]["digest"][7:]).read_text())


def test_the_same_project_gives_the_same_digests(project, layout, tmp_path, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    previous = os.umask(0o077)
    try:
        again = written(project, tmp_path / "another" / "place")
    finally:
        os.umask(previous)
    _, first = layout
    assert {p: e.image for p, e in again.items()} == {p: e.image for p, e in first.items()}


def test_nothing_secret_is_in_any_layer(project, layout):
    folder, _ = layout
    canaries = [
        b"canary-of-the-model",
        b"canary-of-the-token",
        project.identity.read_bytes(),
        project.development_root.read_bytes(),
        *(path.read_bytes() for path in project.secrets.iterdir()),
    ]
    for blob in (folder / "blobs" / "sha256").iterdir():
        data = blob.read_bytes()
        for canary in canaries:
            if canary != project.certificate.read_bytes():
                assert canary not in data, (blob.name, canary[:40])


def test_there_is_no_shell_and_no_package_manager(layout):
    folder, packaged = layout
    for part in Part:
        tree = read_container_image(folder, packaged[part].reference, limit=1 << 30)
        programs = {
            entry.path.rpartition("/")[2]
            for entry in tree.entries
            if entry.kind is EntryKind.FILE and entry.mode & 0o111 and ".so" not in entry.path
        }
        assert programs <= {"python3.11", "python3.12", "python3.13", "python3"}, part


def test_broker_and_client_are_nobody(layout):
    folder, packaged = layout
    assert config_of(folder, packaged[Part.BROKER])["config"]["User"] == "65532:65532"
    assert config_of(folder, packaged[Part.CLIENT])["config"]["User"] == "65532:65532"


def test_the_launcher_in_its_image_measures_as_the_policy_says(layout, tmp_path):
    """Its code is read from the layers and measured as a simulated TEE does it in the container."""
    folder, packaged = layout
    tree = read_container_image(folder, packaged[Part.WORKLOAD].reference, limit=1 << 30)
    for entry in tree.entries:
        path = tmp_path / entry.path
        if entry.kind is EntryKind.FILE and "-packages/" in entry.path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with entry.source.path.open("rb") as file:
                file.seek(entry.source.offset)
                path.write_bytes(file.read(entry.size))
    (packages,) = tmp_path.glob("usr/lib/python3*/*-packages")
    program = (
        f"import sys; sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
        f"sys.path.insert(0, {str(packages)!r}); "
        "from casemate.tee.simulated import measure_launcher; print(measure_launcher())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str(measure_launcher()), done.stderr


@pytest.mark.skipif("chroot" not in root_choices(), reason="needs the right to chroot")
@pytest.mark.parametrize("name", ["policy", "other"])
def test_the_client_in_its_image_verifies_a_server(layout, tmp_path, name):
    """With the interpreter and the libraries of its image alone."""
    folder, packaged = layout
    root = tmp_path / "root"
    tree = read_container_image(folder, packaged[Part.CLIENT].reference, limit=1 << 30)
    for entry in tree.entries:
        path = root / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind is EntryKind.DIRECTORY:
            path.mkdir(exist_ok=True)
        elif entry.kind is EntryKind.SYMLINK:
            path.symlink_to(entry.target)
        else:
            with entry.source.path.open("rb") as file:
                file.seek(entry.source.offset)
                path.write_bytes(file.read(entry.size))
            path.chmod(entry.mode)
    contract = {"policy": CONTRACT, "other": OTHER_CONTRACT}[name]
    (root / "policy.toml").write_text(policy_document(contract).render())
    (root / "dev" / "urandom").write_bytes(os.urandom(1 << 16))  # gRPC insists on seeing it
    (root / "cat.jpg").write_bytes(demo_file("cat.jpg").read_bytes())
    peer = Peer(minted())
    peer.reply = answer(values=[1.0, *[0.0] * 999], shape=(1, 1000)).SerializeToString()
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-m", "casemate.cli.start", "predict", "--policy",
             "/policy.toml", "--server", f"127.0.0.1:{peer.port}", "--image", "/cat.jpg"],
            capture_output=True, text=True, env={}, timeout=60, check=False,
            preexec_fn=lambda: (os.chroot(root), os.chdir("/")),
        )  # fmt: skip
    finally:
        peer.server.stop(None).wait()
    assert (done.returncode, len(peer.seen)) == ((0, 1) if name == "policy" else (5, 0)), (
        done.stderr
    )


def test_an_archive_of_dockers_holds_the_same(layout, tmp_path):
    from casemate.image.oci.write import write_docker_archive

    folder, packaged = layout
    file = tmp_path / "images.tar"
    references = [packaged[part].reference for part in (Part.BROKER, Part.CLIENT)]
    write_docker_archive(file, folder, references)
    with tarfile.open(file) as archive:
        top = json.load(archive.extractfile("manifest.json"))
    assert [each["RepoTags"] for each in top] == [[name] for name in references]
    here = read_container_image(file, references[0], limit=1 << 30)
    there = read_container_image(folder, references[0], limit=1 << 30)
    assert [(e.path, e.mode, e.size) for e in here.entries] == [
        (e.path, e.mode, e.size) for e in there.entries
    ]


@pytest.mark.skipif(not Path("/usr/bin/skopeo").exists(), reason="needs skopeo")
def test_skopeo_reads_them(layout):
    folder, packaged = layout
    done = subprocess.run(
        ["skopeo", "inspect", f"oci:{folder}:{packaged[Part.WORKLOAD].reference}"],
        capture_output=True, text=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    assert seen["Digest"] == packaged[Part.WORKLOAD].image.digest
    assert seen["Labels"]["org.opencontainers.image.title"] == "tf_demo"
