"""Images to and from registries: Debian's own, and one that can be made to fail."""

import base64
import contextlib
import datetime
import json
import os
import shutil
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.containers import File, layer, oci_layout
from tests.support.registries import debians_registry
from tests.support.trees import KEY

from casemate.errors import CasemateError, MalformedError, UsageError
from casemate.image import artifact
from casemate.image.oci import read_container_image
from casemate.image.oci.auth import find_credentials, parse_challenge
from casemate.image.oci.distribution import Blob, Repository, file_digest
from casemate.image.oci.http import RegistryClient, is_loopback
from casemate.image.oci.pull import pull_layout
from casemate.image.oci.reference import parse_reference
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry
from casemate.project.registries import RegistryAccess
from casemate.project.sources import read_source
from casemate.project.tls import make_tls_identity
from casemate_testkit.services.registry import MANIFEST, Answer, FakeRegistry, running

SIZE = 3 << 20


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    content = bytes(range(256)) * (SIZE // 256)
    entry = TreeEntry(path="a", kind=EntryKind.FILE, mode=0o644, size=len(content), source=content)
    return seal([entry], KEY, tmp_path_factory.mktemp("sealed") / "model.sealed")


@pytest.fixture
def registry():
    with running(FakeRegistry()) as made:
        yield made


def reached(host, name="models/a:1", **options):
    reference = parse_reference(f"{host}/{name}")
    client = RegistryClient(host, **options)
    return Repository(client=client, name=reference.name, pause=lambda _: None), reference


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("localhost/a", ("localhost", "a", "latest", "")),
        ("r.example/a/b-c__d:1.0", ("r.example", "a/b-c__d", "1.0", "")),
        ("h:5000/a@sha256:" + "0" * 64, ("h:5000", "a", "", "sha256:" + "0" * 64)),
        ("[::1]:5/a:t@sha256:" + "a" * 64, ("[::1]:5", "a", "t", "sha256:" + "a" * 64)),
    ],
)
def test_references(text, parts):
    found = parse_reference(text)
    assert (found.host, found.name, found.tag, found.digest) == parts
    assert parse_reference(str(found)) == found


@pytest.mark.parametrize(
    "text",
    ["", "a", "a/b", "h:5000/A", "h.x/../a", "h.x/a//b", "h.x/a:", "h.x/a:-b", "h.x/a@sha256:00",
     "h.x/a@md5:00", "u@h.x/a", "h.x/a b", "h.x/" + "a" * 256, "h.x/a:b\n", "é.x/a"],
)  # fmt: skip
def test_what_is_no_reference(text):
    with pytest.raises(UsageError) as caught:
        parse_reference(text)
    assert caught.value.code == "registry.reference"


def test_loopback_is_told_from_all_else():
    for host in ("localhost", "localhost:1", "127.0.0.1", "127.9.9.9:5", "[::1]", "[::1]:5"):
        assert is_loopback(host), host
    for host in ("localhost.x", "127.0.0.1.x", "10.0.0.1", "1.1.1.1:127", "[::2]", "x@127.0.0.1.y"):
        assert not is_loopback(host), host


@given(st.text(max_size=60) | st.text(max_size=60).map(lambda text: f'Bearer realm="{text}"'))
def test_challenges_are_parsed_or_malformed(text):
    with contextlib.suppress(MalformedError):
        assert parse_challenge(text).scheme in ("basic", "bearer")


def test_a_challenge():
    found = parse_challenge('Bearer realm="https://a/b?c",service=d, scope="e:f,g",x="\\""')
    assert (found.realm, found.service, found.scope) == ("https://a/b?c", "d", "e:f,g")
    for text in (
        'Bearer service="a"',
        'Bearer realm="a",realm="b"',
        "Digest a=b",
        'Bearer realm="a',
    ):
        with pytest.raises(MalformedError):
            parse_challenge(text)


def test_credentials_come_from_the_files_that_container_tools_keep(tmp_path):
    def auth(user):
        return {"auth": base64.b64encode(f"{user}:p:w".encode()).decode()}

    auths = {"h.x": auth("all"), "h.x/a/b": auth("some"), "https://old.x": auth("old"), "n.x": {}}
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": auths, "credsStore": "never-run"}))
    environment = {"REGISTRY_AUTH_FILE": str(path), "HOME": str(tmp_path)}
    for host, name, user in (
        ("h.x", "a/b", "some"), ("h.x", "a/b/c", "some"), ("h.x", "a", "all"),
        ("old.x", "a", "old"),
    ):  # fmt: skip
        found = find_credentials(host, name, environment=environment)
        assert (found.user, found.password.reveal()) == (user, b"p:w")
        assert "p:w" not in repr(found)
    assert find_credentials("other.x", "a", environment=environment) is None
    assert find_credentials("n.x", "a", environment=environment) is None
    assert find_credentials("h.x", "a", environment={}) is None
    for text in ("{", '{"auths": {"h.x": {"auth": "?"}}}', '{"auths": {"h.x": {"auth": "YQ=="}}}'):
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            find_credentials("h.x", "a", environment=environment)
        assert caught.value.code == "registry.credentials"


def test_a_place_of_credentials_that_can_not_be_looked_at_is_told(tmp_path):
    """As where ``sudo`` leaves the environment of another user."""
    with pytest.raises(UsageError) as caught:
        find_credentials("h.x", "a", environment={"XDG_RUNTIME_DIR": str(tmp_path / ("x" * 300))})
    assert caught.value.code == "registry.credentials"


def test_a_sealed_image_goes_and_comes(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    digest, image_id = artifact.push(sealed.path, repository, reference)
    assert image_id == sealed.id
    told = []
    artifact.pull(
        repository,
        reference,
        tmp_path / "b",
        image_id=sealed.id,
        progress=lambda *a: told.append(a),
    )
    assert (tmp_path / "b").read_bytes() == sealed.path.read_bytes()
    assert told[-1] == (sealed.file_size, sealed.file_size)
    before = len(registry.asked)
    assert artifact.push(sealed.path, repository, reference)[0] == digest
    assert not [each for each in registry.asked[before:] if each.method == "PATCH"], "sent once"
    with pytest.raises(UsageError) as caught:
        artifact.pull(repository, reference, tmp_path / "b")
    assert caught.value.code == "file.exists"
    with pytest.raises(UsageError) as caught:
        artifact.pull(repository, reference, tmp_path / "b/c")
    assert caught.value.code == "image.unwritable"


def test_a_pull_that_is_cut_goes_on_where_it_ended(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)
    cuts = [1_000_000, 0, 500_000]

    def cut(request):
        if request.method == "GET" and "/blobs/" in request.path and cuts:
            registry.faults.clear()
            whole = registry.answer(request)
            registry.faults.append(cut)
            return Answer(
                status=whole.status, headers=whole.headers, body=whole.body, cut=cuts.pop(0)
            )
        return None

    registry.faults.append(cut)
    artifact.pull(repository, reference, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == sealed.path.read_bytes()
    ranges = [each.headers.get("range") for each in registry.asked if "range" in each.headers]
    assert ranges[0] != ranges[-1]


def test_a_pull_goes_on_in_the_next_program(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)

    def cut(request):
        if "/blobs/" not in request.path:
            return None
        if "range" in request.headers:
            return Answer(status=503)
        return Answer(body=sealed.path.read_bytes(), cut=1 << 20)

    registry.faults.append(cut)
    with pytest.raises(CasemateError) as caught:
        artifact.pull(repository, reference, tmp_path / "b")
    assert caught.value.code == "registry.unreachable"
    assert not (tmp_path / "b").exists()
    registry.faults.clear()
    before = len(registry.asked)
    artifact.pull(repository, reference, tmp_path / "b")
    (blob,) = [each for each in registry.asked[before:] if "/blobs/" in each.path]
    assert int(blob.headers["range"][6:-1]) > 0
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_of_a_blob_that_is_longer_than_promised_nothing_stays(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)
    whole = sealed.path.read_bytes()

    def more(request):
        return Answer(body=whole + b"more") if "/blobs/" in request.path else None

    registry.faults.append(more)
    with pytest.raises(MalformedError):
        artifact.pull(repository, reference, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
    registry.faults.clear()
    assert artifact.pull(repository, reference, tmp_path / "b")[1] == sealed.id


def test_of_a_blob_that_is_no_sealed_image_nothing_stays(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    blob = Blob(digest=registry.add_blob(b"no image"), size=8)
    registry.add_manifest(artifact.encode_manifest(blob, sealed.id), reference.tag)
    with pytest.raises(MalformedError):
        artifact.pull(repository, reference, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_push_whose_last_answer_is_lost_is_done(tmp_path, registry):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1000))
    repository, _ = reached(registry.host)
    blob = file_digest(path)

    def lost(request):
        if request.method != "PUT":
            return None
        if blob.digest in registry.blobs:
            return Answer(status=404)  # no such upload any more
        registry.faults.clear()
        registry.answer(request)
        registry.faults.append(lost)
        return Answer(status=502)

    registry.faults.append(lost)
    repository.upload(blob, lambda: path.open("rb"))
    assert registry.blobs[blob.digest] == path.read_bytes()


def test_a_sealed_image_is_not_taken_for_a_container_image(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)
    with pytest.raises(UsageError) as caught:
        pull_layout(repository, reference, tmp_path / "kept", machine="x86_64", limit=1 << 30)
    assert caught.value.code == "container.artifact"
    assert "casemate image pull" in caught.value.remedy


def test_a_pull_to_a_place_that_can_not_be_looked_at_is_refused(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)
    with pytest.raises(UsageError) as caught:
        artifact.pull(repository, reference, tmp_path / ("x" * 300))
    assert caught.value.code == "image.unwritable"


def at_once(registry, fetch):
    """What two that fetch the same at the same time come to, in whichever order."""
    second = threading.Event()

    def slow(request):  # the first to ask for a blob waits a while for the second
        if request.method == "GET" and "/blobs/" in request.path:
            others = [each for each in registry.asked if each.path == request.path]
            second.set() if len(others) > 1 else second.wait(0.5)

    def outcome(number):
        try:
            return fetch(number)
        except CasemateError as error:
            return error.code

    registry.faults.append(slow)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(outcome, range(2)))
    asked = [each.path for each in registry.asked if "/blobs/" in each.path]
    return found, asked


def test_two_pulls_of_one_file_at_once_do_not_spoil_it(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)
    registry.asked.clear()
    path = tmp_path / "pulled"
    found, asked = at_once(
        registry, lambda _: artifact.pull(*reached(registry.host), path)[1] == sealed.id
    )
    assert sorted(map(str, found)) == ["True", "file.exists"]
    assert len(asked) == 1
    assert path.read_bytes() == sealed.path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_fetch_one_container_image_at_once_fetch_it_once(tmp_path, registry):
    folder = tmp_path / "image"
    digest = oci_layout(folder, [layer(File("a", os.urandom(SIZE)))], tag="1")
    for blob in (folder / "blobs/sha256").iterdir():
        registry.add_blob(blob.read_bytes())
    registry.add_manifest((folder / "blobs" / digest.replace(":", "/")).read_bytes(), "1")
    found, asked = at_once(
        registry,
        lambda _: pull_layout(
            *reached(registry.host), tmp_path / "kept", machine="x86_64", limit=1 << 30
        ),
    )
    assert found == [digest, digest]
    assert len(asked) == len(set(asked))
    assert not list((tmp_path / "kept/blobs/sha256").glob("*.part"))
    (entry,) = read_container_image(tmp_path / "kept", limit=1 << 30).entries
    assert entry.size == SIZE


def test_a_server_without_ranges_gives_the_whole_again(tmp_path, sealed, registry):
    repository, reference = reached(registry.host)
    artifact.push(sealed.path, repository, reference)
    sent = []

    def whole(request):
        if request.method == "GET" and "/blobs/" in request.path:
            sent.append(1)
            return Answer(body=sealed.path.read_bytes(), cut=1 << 20 if len(sent) == 1 else None)
        return None

    registry.faults.append(whole)
    artifact.pull(repository, reference, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == sealed.path.read_bytes()
    assert len(sent) == 2


def test_a_push_that_is_cut_goes_on_where_it_ended(tmp_path, registry, monkeypatch):
    monkeypatch.setattr("casemate.image.oci.distribution._UPLOAD", 1 << 16)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 18))
    repository, _ = reached(registry.host)
    failures = [Answer(status=503), None, Answer(status=500)]

    def fail(request):
        return failures.pop(0) if request.method == "PATCH" and failures else None

    registry.faults.append(fail)
    blob = file_digest(path)
    repository.upload(blob, lambda: path.open("rb"))
    assert registry.blobs[blob.digest] == path.read_bytes()
    assert len([each for each in registry.asked if each.method == "GET"]) == 2


def test_a_registry_that_wants_to_know_who_asks(tmp_path, sealed, registry):
    registry.users["me"] = "secret"
    anonymous, reference = reached(registry.host)
    with pytest.raises(CasemateError) as caught:
        artifact.push(sealed.path, anonymous, reference)
    assert (caught.value.code, caught.value.exit_code) == ("registry.denied", 2)
    (tmp_path / "auth.json").write_text(
        json.dumps({"auths": {registry.host: {"auth": base64.b64encode(b"me:secret").decode()}}})
    )
    repository = RegistryAccess(auth_file=tmp_path / "auth.json").repository(reference)
    artifact.push(sealed.path, repository, reference)
    artifact.pull(repository, reference, tmp_path / "b", image_id=sealed.id)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_of_authorities_that_is_none_is_not_blamed_on_the_registry(tmp_path, content):
    if content is not None:
        (tmp_path / "ca").write_bytes(content)
    with pytest.raises(UsageError) as caught:
        RegistryAccess(ca_file=tmp_path / "ca").repository(parse_reference("r.example/a"))
    assert caught.value.code == "registry.ca-file"


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A registry's certificate, and the file by which it is known."""
    identity = make_tls_identity(("127.0.0.1",), now=datetime.datetime.now(datetime.UTC))
    folder = tmp_path_factory.mktemp("tls")
    (folder / "key").write_bytes(identity.private_key.reveal())
    (folder / "certificate").write_bytes(identity.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    return context, folder / "certificate"


def test_a_registry_over_tls(tmp_path, sealed, tls):
    context, known = tls
    other = make_tls_identity(("127.0.0.1",), now=datetime.datetime.now(datetime.UTC))
    (tmp_path / "other").write_bytes(other.certificate)
    with running(FakeRegistry(), tls=context) as registry:
        reference = parse_reference(f"{registry.host}/models/a:1")
        repository = RegistryAccess(ca_file=known).repository(reference)
        artifact.push(sealed.path, repository, reference)
        artifact.pull(repository, reference, tmp_path / "b", image_id=sealed.id)
        stranger, _ = reached(registry.host, ca_file=tmp_path / "other")
        with pytest.raises(CasemateError) as caught:
            stranger.manifest(reference)
        assert caught.value.code == "registry.unreachable"
        assert "CERTIFICATE_VERIFY_FAILED" in caught.value.got
        with running(FakeRegistry()) as plain:
            target = {"Location": f"http://{plain.host}/"}
            registry.faults.append(lambda _: Answer(status=307, headers=target))
            with pytest.raises(CasemateError) as caught:
                repository.manifest(reference)
            assert caught.value.code == "registry.address"
            assert not plain.asked


def fill(registry, folder, **layouts):
    """Put images of a folder in OCI layout into a registry, by tag; returns their digests."""
    digests = {}
    for tag, layers in layouts.items():
        digests[tag] = oci_layout(folder / tag, layers)
        for blob in (folder / tag / "blobs/sha256").iterdir():
            registry.add_blob(blob.read_bytes())
        manifest = folder / tag / "blobs" / digests[tag].replace(":", "/")
        registry.add_manifest(manifest.read_bytes(), tag)
    return digests


def pulled(registry, folder, name="some/image:1", **options):
    repository, reference = reached(registry.host, name)
    digest = pull_layout(
        repository, reference, folder, **{"machine": "x86_64", "limit": 1 << 24, **options}
    )
    tree = read_container_image(folder, limit=1 << 24)
    assert tree.digest == digest
    return [entry.path for entry in tree.entries]


def test_a_container_image_that_was_cut_is_not_fetched_twice(tmp_path, registry):
    fill(registry, tmp_path, **{"1": [layer(File("a", os.urandom(9000))), layer(File("b", b"2"))]})
    manifest = json.loads(registry.manifests["1"])
    last = manifest["layers"][-1]["digest"]

    def refuse(request):
        return Answer(status=503) if last in request.path else None

    registry.faults.append(refuse)
    with pytest.raises(CasemateError) as caught:
        pulled(registry, tmp_path / "layout")
    assert caught.value.code == "registry.unreachable"
    registry.faults.clear()
    before, told = len(registry.asked), []
    assert pulled(registry, tmp_path / "layout", progress=lambda *a: told.append(a)) == ["a", "b"]
    blobs = [each.path for each in registry.asked[before:] if "/blobs/" in each.path]
    assert blobs == [f"/v2/some/image/blobs/{last}"]
    assert told[-1][0] == told[-1][1]


def test_of_an_image_for_several_platforms_this_machines_is_taken(tmp_path, registry):
    digests = fill(registry, tmp_path, intel=[layer(File("i", b""))], arm=[layer(File("a", b""))])
    platforms = {"intel": "amd64", "arm": "arm64"}
    index = {
        "manifests": [
            {"mediaType": MANIFEST, "digest": digests[tag], "size": 1,
             "platform": {"os": "linux", "architecture": platforms[tag]}}
            for tag in digests
        ]
    }  # fmt: skip
    registry.add_manifest(json.dumps(index).encode(), "1")
    assert pulled(registry, tmp_path / "x", machine="x86_64") == ["i"]
    assert pulled(registry, tmp_path / "y", machine="aarch64") == ["a"]
    with pytest.raises(UsageError) as caught:
        pulled(registry, tmp_path / "z", machine="riscv64")
    assert caught.value.code == "container.reference"


def test_debians_registry_takes_sealed_images_and_gives_them_back(tmp_path, sealed, monkeypatch):
    monkeypatch.setattr("casemate.image.oci.distribution._UPLOAD", 1 << 20)
    with debians_registry(tmp_path / "registry") as host:
        repository, reference = reached(host)
        digest, _ = artifact.push(sealed.path, repository, reference)
        artifact.push(sealed.path, repository, reference)
        again, by_digest = reached(host, f"models/a@{digest}")
        artifact.pull(again, by_digest, tmp_path / "b", image_id=sealed.id)
        # What came of an earlier try counts, and is looked at.
        part = tmp_path / f".c.{file_digest(sealed.path).digest[7:23]}.part"
        part.write_bytes(sealed.path.read_bytes()[: SIZE // 2])
        artifact.pull(repository, reference, tmp_path / "c")
    for name in "bc":
        with open_image(tmp_path / name, KEY, sealed.id) as image:
            image.verify_all()


def test_a_container_image_is_sealed_from_debians_registry(tmp_path, monkeypatch):
    skopeo = shutil.which("skopeo")
    if skopeo is None:
        pytest.skip("skopeo is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = layer(File("srv"), File("srv/a", os.urandom(100_000)))
    oci_layout(tmp_path / "image", [layer(File("etc")), files])
    with debians_registry(tmp_path / "registry") as host:
        subprocess.run(
            [skopeo, "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
             f"oci:{tmp_path}/image:latest", f"docker://{host}/some/image:1"],
            check=True, timeout=60,
        )  # fmt: skip
        here = read_source(f"oci:{tmp_path}/image:latest")
        there = read_source(f"registry:{host}/some/image:1")
        also = read_source(f"docker://{host}/some/image@{there.container.digest}")
    for tree in (there, also):
        assert [entry.path for entry in tree.entries] == [entry.path for entry in here.entries]
    assert not list((tmp_path / "cache/casemate/pulls").iterdir())
    assert Path(there.entries[-1].source.path).exists()
