"""The operator wants decrypted files on its disk, and points the launcher at folders there."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from tests.support.launches import launch_site, needs_busybox, root_choices, storage_options
from tests.support.trees import KEY, file, varied

from casemate.errors import UsageError
from casemate.image.keys import encode_key_file
from casemate.image.oci.export import export_layout
from casemate.image.oci.manifest import ContainerConfig
from casemate.image.oci.ocicrypt import read_key
from casemate.image.seal import seal
from casemate.image.storage import DANGER, is_memory
from casemate.launcher.storage import PlainStorage
from casemate.project.sources import read_source


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    if is_memory(tmp_path):
        pytest.skip("the tests' own folder lies in memory")
    return tmp_path


def test_a_folder_that_the_environment_names_is_not_used(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``XDG_RUNTIME_DIR`` is memory where systemd sets it; here the operator does."""
    for name in ("XDG_RUNTIME_DIR", "TMPDIR"):
        monkeypatch.setenv(name, str(disk))
    storage = PlainStorage()
    try:
        made, _ = storage.make(1 << 20, allow_disk=False)
        assert not made.is_relative_to(disk)
        assert is_memory(made)
    except UsageError as error:
        assert error.code == "launcher.storage"  # noqa: PT017  either is right
    finally:
        storage.remove()
    assert list(disk.iterdir()) == []


def test_a_link_to_a_disk_is_not_taken_for_memory(
    disk: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path_factory.mktemp("links") / "memory"
    link.symlink_to(disk)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(link))
    storage = PlainStorage()
    try:
        made, _ = storage.make(1 << 20, allow_disk=False)
        assert is_memory(made)
    except UsageError as error:
        assert error.code == "launcher.storage"  # noqa: PT017  either is right
    finally:
        storage.remove()
    assert list(disk.iterdir()) == []


@needs_busybox
@pytest.mark.skipif(
    storage_options() != (), reason="needs namespaces, or memory that programs can be run from"
)
@pytest.mark.parametrize("root", root_choices())
def test_what_a_workload_writes_stays_in_memory(disk: Path, root: str) -> None:
    marker = "canary-of-a-decrypted-file-88c1"
    script = f"echo {marker} > /etc/new; cat /etc/new"
    with launch_site(disk, ["/bin/sh", "-c", script]) as site:
        done = site.launch(f"--root={root}")
    assert done.stdout.split() == [marker], done.stderr
    holding = [
        path.name
        for path in disk.rglob("*")
        if path.is_file() and marker.encode() in path.read_bytes()
    ]
    assert holding == ["launch.cbor"], "the contract holds the command line, in the clear"


def test_a_command_that_holds_a_key_leaves_no_core_dump(tmp_path: Path) -> None:
    """Who may send it SIGQUIT, or finds a fault that ends it, would find key and files in one."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    key = tmp_path / "key"
    key.write_bytes(encode_key_file(KEY).reveal())
    seal([file("a", varied(1 << 20))], KEY, tmp_path / "sealed")
    run = "from casemate.cli.main import main; main()"
    command = [sys.executable, "-c", run, "image", "cat", str(tmp_path / "sealed"), "a"]
    with subprocess.Popen(
        [*command, "--key", str(key)],
        stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1), "it has decrypted, and waits for us to read the rest"
        limits = Path(f"/proc/{process.pid}/limits").read_text(encoding="ascii")
        process.kill()
    core = next(line for line in limits.splitlines() if line.startswith("Max core file"))
    assert core.split()[4] == "0"


CANARY = os.urandom(32)
SECRET = b"".join(os.urandom(1 << 18) + CANARY for _ in range(16))  # nothing that gzip changes


def encrypted_image(folder: Path) -> None:
    """``image``, a container image that is encrypted for the key in ``guest.pem``."""
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "guest.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (folder / "guest.pub").write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    export_layout(
        [file("a", SECRET)],
        ContainerConfig(argv=("/a",), environment={}, working_directory="/", user=""),
        folder / "image",
        tag="1",
        recipients=(read_key(folder / "guest.pub", private=False),),
        machine=os.uname().machine,
        progress=lambda done, total: assert_no_canary(folder),
    )


def assert_no_canary(folder: Path) -> None:
    """No file below a folder has it, and none that this process has open there, with a name or not.

    What was deleted counts: its blocks stay on the disk.
    """
    held = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]  # noqa: PTH208
    held = [each for each in held if str(folder) in os.path.realpath(each)]
    for path in (*folder.rglob("*"), *map(Path, held)):
        assert not path.is_file() or CANARY not in path.read_bytes(), path.resolve()


def test_a_layer_that_is_decrypted_lies_in_memory(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted_image(disk)
    monkeypatch.setenv("TMPDIR", str(disk))
    monkeypatch.setattr("tempfile.tempdir", None)  # it keeps what it found at first
    try:
        tree = read_source(f"oci:{disk}/image:1", decryption_keys=(disk / "guest.pem",))
    except UsageError as error:
        assert error.code in ("image.disk", "image.swap")  # noqa: PT017  either is right
    else:
        assert tree.container is not None
        assert is_memory(Path(tree.container.scratch.name))
    assert_no_canary(disk)


def test_a_layer_that_is_encrypted_goes_nowhere_before_it_is(tmp_path: Path) -> None:
    encrypted_image(tmp_path)
    assert_no_canary(tmp_path)


def test_without_memory_no_layer_is_decrypted_unless_insisted_on(disk: Path) -> None:
    encrypted_image(disk)
    (disk / "key").write_bytes(encode_key_file(KEY).reveal())
    (disk / "shm").mkdir()
    command = [sys.executable, "-m", "casemate.cli.start", "image", "seal", "oci:image:1", "sealed"]
    command += ["--key", "key", "--decryption-key", "guest.pem"]
    no_memory = ["unshare", "--mount", "sh", "-c", 'mount --bind shm /dev/shm && exec "$@"', "-"]
    if subprocess.run([*no_memory, "true"], cwd=disk, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*no_memory, *command, *options],
            cwd=disk,
            env={**os.environ, "TMPDIR": str(disk)},
            capture_output=True,
            text=True,
            check=False,
        )

    refused = run()
    assert refused.returncode == 2
    assert "[image.disk]" in refused.stderr or "[image.swap]" in refused.stderr
    assert not (disk / "sealed").exists()
    assert run(DANGER).returncode == 0


def test_a_tree_that_was_encrypted_is_copied_to_memory_alone(disk: Path) -> None:
    encrypted_image(disk)
    command = [sys.executable, "-m", "casemate.cli.start", "image", "copy", f"oci:{disk}/image:1"]
    command += [str(disk / "copy"), "--decryption-key", str(disk / "guest.pem")]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "[image.disk]" in refused.stderr or "[image.swap]" in refused.stderr
    assert_no_canary(disk)
    subprocess.run([*command, DANGER], check=True, capture_output=True)
    assert CANARY in (disk / "copy" / "a").read_bytes()
