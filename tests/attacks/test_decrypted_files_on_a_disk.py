"""The operator wants decrypted files on its disk, and points the launcher at folders there."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.launches import launch_site, needs_busybox, root_choices, storage_options
from tests.support.trees import KEY, file, varied

from casemate.errors import UsageError
from casemate.image.keys import encode_key_file
from casemate.image.seal import seal
from casemate.image.storage import is_memory
from casemate.launcher.storage import PlainStorage


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
