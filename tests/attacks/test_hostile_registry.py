"""A registry, or whoever answers in its place, gives other bytes, endless ones, or wants secrets.

It controls every answer. It wants other bytes to be taken for the image, memory or disk to be
filled, the program to hang, or credentials that are not meant for it (threat model, P18).
"""

import base64
import contextlib
import json
import socket
import threading
import time

import pytest
from tests.support.trees import KEY

from casemate.errors import CasemateError
from casemate.image import artifact
from casemate.image.oci.auth import Credentials
from casemate.image.oci.distribution import Blob, Repository, file_digest
from casemate.image.oci.http import RegistryClient
from casemate.image.oci.pull import pull_layout
from casemate.image.oci.reference import Reference, parse_reference
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry
from casemate.types import Secret, Sha384
from casemate_testkit.services.registry import MANIFEST, Answer, FakeRegistry, running

CANARY = b"canary-password-4471"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two sealed images of one size."""
    folder = tmp_path_factory.mktemp("sealed")
    entries = [
        TreeEntry(path="a", kind=EntryKind.FILE, mode=0o644, size=9, source=content)
        for content in (b"the right", b"the wrong")
    ]
    return [seal([entry], KEY, folder / str(n)) for n, entry in enumerate(entries)]


class World:
    """A hostile registry that has the right image to begin with, and its victim."""

    def __init__(self, registry, images, tmp_path):
        self.registry, self.path = registry, tmp_path / "model.sealed"
        self.right, self.wrong = images
        self.credentials = Credentials(user="me", password=Secret(CANARY))
        client = RegistryClient(registry.host, credentials=self.credentials)
        self.repository = Repository(client=client, name="a", pause=lambda _: None)
        self.reference = parse_reference(f"{registry.host}/a:1")
        self.digest, _ = artifact.push(self.right.path, self.repository, self.reference)

    @property
    def pinned(self):
        return Reference(host=self.registry.host, name="a", tag="", digest=self.digest)

    def says(self, part, *answers):
        """The registry answers requests whose path holds a text with these, the last for ever."""
        left = list(answers)

        def fault(request):
            if part not in request.path or request.method == "HEAD":
                return None
            return left.pop(0) if len(left) > 1 else left[0]

        self.registry.faults.append(fault)

    def pull(self, reference=None, **options):
        return artifact.pull(self.repository, reference or self.reference, self.path, **options)

    def refused(self, *codes, reference=None, **options):
        with pytest.raises(CasemateError) as caught:
            self.pull(reference, **options)
        assert caught.value.code in codes
        assert not self.path.exists()
        assert CANARY.decode() not in str(caught.value)


@pytest.fixture
def world(images, tmp_path):
    with running(FakeRegistry()) as registry:
        yield World(registry, images, tmp_path)


def manifest_of(info):
    return artifact.encode_manifest(file_digest(info.path), info.id)


def test_without_an_attack_the_image_comes(world):
    world.pull(world.pinned, image_id=world.right.id)
    assert world.path.read_bytes() == world.right.path.read_bytes()


def test_another_manifest_under_a_digest(world):
    world.says("/manifests/", Answer(body=manifest_of(world.wrong)))
    world.refused("container.changed", reference=world.pinned)


def test_another_manifest_than_the_registry_itself_says(world):
    digest = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    world.says("/manifests/", Answer(headers=digest, body=manifest_of(world.right)))
    world.refused("container.changed")


def test_another_blob_of_the_same_size(world):
    assert world.wrong.file_size == world.right.file_size
    world.says("/blobs/", Answer(body=world.wrong.path.read_bytes()))
    world.refused("container.changed", reference=world.pinned)
    assert not list(world.path.parent.iterdir()), "and nothing of it stays"


def test_another_image_under_the_tag(world):
    world.registry.add_blob(world.wrong.path.read_bytes())
    world.registry.add_manifest(manifest_of(world.wrong), "1")
    world.refused("image.id", image_id=world.right.id)


def test_another_image_under_the_annotation_of_the_right_one(world):
    world.registry.add_blob(world.wrong.path.read_bytes())
    lying = json.loads(manifest_of(world.wrong))
    lying["annotations"] = {artifact.ID: str(world.right.id)}
    world.registry.add_manifest(json.dumps(lying).encode(), "1")
    world.refused("image.id", image_id=world.right.id)


def test_a_blob_that_does_not_end(world):
    world.says("/blobs/", Answer(body=world.right.path.read_bytes() + b"more"))
    world.refused("registry.malformed")


def test_a_blob_that_ends_early_for_ever(world):
    world.says("/blobs/", Answer(body=b""))
    world.refused("registry.unreachable")


def test_a_range_from_elsewhere(world):
    data = world.right.path.read_bytes()
    other = {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}
    first, rest = Answer(body=data, cut=100), data[: len(data) - 100]  # as many as are missing
    world.says("/blobs/", first, Answer(status=206, headers=other, body=rest))
    world.refused("registry.malformed")


@pytest.mark.parametrize("size", [(4 << 20) + 1, 16 << 20])
def test_a_manifest_too_large(world, size):
    world.says("/manifests/", Answer(body=b" " * size))
    world.refused("registry.malformed")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"[" * 100_000, b'{"a":1,"a":2}', b"\xff", b'{"artifactType":[]}',
        json.dumps({"artifactType": artifact.TYPE, "layers": 5}).encode(),
        json.dumps({"artifactType": artifact.TYPE, "layers": [{}, {}]}).encode(),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none(world, body):
    world.says("/manifests/", Answer(body=body))
    world.refused("registry.malformed", "registry.not-sealed", "encoding.json")


@pytest.mark.parametrize(
    "changes",
    [{"size": -1}, {"size": True}, {"size": 1 << 70}, {"size": "5"}, {"digest": "sha256:../../x"},
     {"digest": "sha512:" + "0" * 128}, {"digest": 5}],
)  # fmt: skip
def test_a_descriptor_that_can_not_be(world, changes):
    manifest = json.loads(manifest_of(world.right))
    manifest["layers"][0].update(changes)
    world.says("/manifests/", Answer(body=json.dumps(manifest).encode()))
    world.refused("registry.malformed", "container.digest")


def test_redirects_in_circles(world):
    world.says("/blobs/", Answer(status=307, headers={"Location": "?again"}))
    world.refused("registry.malformed")


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://storage.example/a", "registry.address"),
        ("file:///etc/passwd", "registry.malformed"),
        ("https://user:word@storage.example/", "registry.malformed"),
        ("http://", "registry.malformed"),
        ("http://h.x:99999/", "registry.malformed"),
        ("gopher://127.0.0.1/", "registry.malformed"),
    ],
)
def test_redirects_to_where_nobody_should_go(world, location, code):
    world.says("/blobs/", Answer(status=302, headers={"Location": location}))
    world.refused(code)


def test_a_registry_elsewhere_does_not_send_us_to_services_of_this_machine(world):
    client = RegistryClient("registry.example")
    for url in (f"http://{world.registry.host}/", "http://localhost/"):
        with pytest.raises(CasemateError) as caught:
            client.url(url)
        assert caught.value.code == "registry.address"


def test_no_credentials_follow_a_redirect(world):
    world.registry.users["me"] = CANARY.decode()
    with running(FakeRegistry()) as other:
        other.faults.append(lambda _: Answer(body=world.right.path.read_bytes()))
        target = {"Location": f"http://{other.host}/blob"}

        def redirect(request):
            return Answer(status=307, headers=target) if "/blobs/" in request.path else None

        world.registry.faults.append(redirect)
        world.pull()
        assert other.asked
        assert not any("authorization" in each.headers for each in other.asked)


def test_no_credentials_follow_an_upload_elsewhere(world):
    world.registry.users["me"] = CANARY.decode()
    with running(FakeRegistry()) as other:
        other.faults.append(lambda _: Answer(status=403))
        target = {"Location": f"http://{other.host}/upload"}
        world.says("/uploads/", Answer(status=202, headers=target))
        with pytest.raises(CasemateError) as caught:
            artifact.push(world.wrong.path, world.repository, world.reference)
        assert caught.value.code == "registry.denied"
        assert other.asked
        assert not any("authorization" in each.headers for each in other.asked)


@pytest.mark.parametrize("realm", ["http://tokens.example/", "ftp://127.0.0.1/", "/token"])
def test_no_credentials_for_a_token_service_without_tls(world, realm):
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    world.says("/manifests/", Answer(status=401, headers=challenge))
    world.refused("registry.address", "registry.malformed")


def test_no_credentials_over_plain_http():
    credentials = Credentials(user="me", password=Secret(CANARY))
    client = RegistryClient("registry.example", credentials=credentials, plain_http=True)
    assert client.credentials is None


def test_a_registry_that_is_never_content(world):
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{world.registry.host}/token"'}
    world.says("/manifests/", Answer(status=401, headers=challenge))
    world.says("/token", Answer(body=b'{"token": "a"}'))
    world.refused("registry.denied")
    assert len(world.registry.asked) < 20


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"token": "a\\nb"}', b'{"token": "\xc3\xa9"}'])
def test_a_token_that_is_none(world, body):
    challenge = {"WWW-Authenticate": f'Bearer realm="http://{world.registry.host}/token"'}
    world.says("/manifests/", Answer(status=401, headers=challenge))
    world.says("/token", Answer(body=body))
    world.refused("registry.malformed")


def layout_refused(world, tmp_path, code, **options):
    with pytest.raises(CasemateError) as caught:
        pull_layout(
            world.repository, world.reference, tmp_path / "layout",
            machine="x86_64", **{"limit": 1 << 20, **options},
        )  # fmt: skip
    assert caught.value.code == code


def test_an_index_of_indexes_for_ever(world, tmp_path):
    def index(request):
        if "/manifests/" not in request.path:
            return None
        platform = {"os": "linux", "architecture": "amd64"}
        return Answer(body=json.dumps({"manifests": [
            {"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": platform}
        ]}).encode())  # fmt: skip

    digest = "sha256:" + "0" * 64
    world.registry.faults.append(index)
    layout_refused(world, tmp_path, "container.changed")


def test_layers_that_would_fill_the_disk_are_not_even_fetched(world, tmp_path):
    config = {"mediaType": "a", "digest": world.registry.add_blob(b"{}"), "size": 2}
    layer = {"mediaType": "a", "digest": "sha256:" + "1" * 64, "size": 1 << 40}
    world.registry.add_manifest(json.dumps({"config": config, "layers": [layer]}).encode(), "1")
    before = len(world.registry.asked)
    layout_refused(world, tmp_path, "container.too-large")
    assert all("/blobs/" not in each.path for each in world.registry.asked[before:])


def test_what_was_there_before_counts_only_with_its_digest(world):
    promised = artifact.parse_manifest(manifest_of(world.right))[0]
    part = world.path.with_name(f".{world.path.name}.{promised.digest[7:23]}.part")
    part.write_bytes(b"\0" * (promised.size - 5))
    world.refused("container.changed", reference=world.pinned)
    assert not part.exists()
    world.pull(world.pinned, image_id=world.right.id)


def test_a_link_in_place_of_what_was_there_before(world):
    """Of another user, in a folder that both write to."""
    mine = world.path.parent / "mine"
    mine.write_bytes(b"")
    promised = artifact.parse_manifest(manifest_of(world.right))[0]
    part = world.path.with_name(f".{world.path.name}.{promised.digest[7:23]}.part")
    part.symlink_to(mine)
    world.refused("image.unwritable", reference=world.pinned)
    assert mine.read_bytes() == b""


def test_no_secret_in_what_is_shown(world):
    def basic(request):
        if "authorization" in request.headers:
            return None
        return Answer(status=401, headers={"WWW-Authenticate": "Basic realm=a"})

    world.registry.faults.append(basic)
    world.pull()
    assert any("authorization" in each.headers for each in world.registry.asked)
    for shown in (repr(world.credentials), repr(world.repository)):
        assert CANARY.decode() not in shown
        assert base64.b64encode(b"me:" + CANARY).decode() not in shown


def test_an_id_is_an_id(world):
    with pytest.raises(CasemateError):
        world.pull(image_id=Sha384(bytes(48)))


@contextlib.contextmanager
def dripping(start, drop, pause=0.1, most=100):
    """A registry that says ``start`` to whoever asks, and then ``drop`` again and again."""
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as open_ones:
        ended = threading.Event()

        def serve(connection):
            with contextlib.suppress(OSError):
                connection.recv(65536)
                connection.sendall(start)
                for _ in range(most):
                    if ended.wait(pause):
                        break
                    connection.sendall(drop)
            connection.close()

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connection = open_ones.enter_context(server.accept()[0])
                    threading.Thread(target=serve, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "drop"),
    [(LENGTH, b"x"), (CHUNKED, b"1\r\nx\r\n"), (b"HTTP/1.1 200 OK\r\nX: ", b"x"), (b"", b"H")],
    ids=["length", "chunked", "head", "status"],
)
@pytest.mark.parametrize("what", ["manifest", "blob"])
def test_a_byte_now_and_then_for_ever(tmp_path, monkeypatch, what, start, drop):
    monkeypatch.setattr("casemate.image.oci.http._HEAD_SECONDS", 0.4)
    monkeypatch.setattr("casemate.image.oci.http._DOCUMENT_SECONDS", 0.4)
    monkeypatch.setattr("casemate.image.oci.distribution._LEAST_SECONDS", 0.4)
    monkeypatch.setattr("casemate.image.oci.distribution._ATTEMPTS", 2)
    with dripping(start, drop) as host:
        repository = Repository(client=RegistryClient(host), name="a", pause=lambda _: None)
        began = time.monotonic()
        with pytest.raises(CasemateError) as caught:
            if what == "manifest":
                repository.manifest(parse_reference(f"{host}/a:1"))
            else:
                blob = Blob(digest=f"sha256:{'a' * 64}", size=1_000_000)
                repository.download(blob, tmp_path / "part")
    assert caught.value.code == "registry.unreachable"
    assert time.monotonic() - began < 5


def test_a_blob_of_which_each_answer_brings_a_byte(world):
    """Every attempt is progress, and there are as many as the blob has bytes."""
    asked = []

    def fault(request):
        if request.method != "GET" or "/blobs/" not in request.path:
            return None
        at = int(request.headers.get("range", "bytes=0-")[6:-1])
        asked.append(at)
        where = {"Content-Range": f"bytes {at}-{at + 9}/*"}
        return Answer(status=206 if at else 200, headers=where, body=b"x" * 10, cut=1)

    world.registry.faults.append(fault)
    world.refused("registry.unreachable")
    assert len(asked) <= 10
