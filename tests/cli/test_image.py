"""``casemate image`` and ``casemate key`` as programs."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.containers import File, layer, oci_layout
from tests.support.erofs import why_no_erofs
from tests.support.models import safetensors
from tests.support.trees import compare_trees, make_folder

from casemate.image.fuse import fuse_available
from casemate.image.storage import is_memory
from casemate.project.programs import Finished, run_program
from casemate_testkit.services.registry import FakeRegistry, running

_LIBRARIES = f"{os.uname().machine}-linux-gnu"
_CASEMATE = [sys.executable, "-m", "casemate.cli.start"]


def casemate(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*_CASEMATE, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def test_from_key_to_extracted_tree(tmp_path: Path) -> None:
    folder, image, key = make_folder(tmp_path / "tree"), tmp_path / "image", tmp_path / "key"
    casemate("key", "new", key)
    assert key.stat().st_mode & 0o777 == 0o600
    sealed = json.loads(casemate("image", "seal", folder, image, "--key", key, "--json").stdout)
    shown = json.loads(casemate("image", "show", image, "--key", key, "--json").stdout)
    assert shown["id"] == sealed["id"]
    assert shown["entries"] == sealed["entries"]
    assert sealed["id"] in casemate("image", "show", image).stdout
    assert "bin/tool" in casemate("image", "ls", image, "--key", key).stdout
    listing = json.loads(casemate("image", "ls", image, "--key", key, "--json").stdout)
    assert len(listing) == sealed["entries"]
    casemate("image", "verify", image, "--key", key, "--id", sealed["id"])
    extract = ("image", "extract", image, tmp_path / "out", "--key", key, "--json")
    if not is_memory(tmp_path):
        assert "image.disk" in casemate(*extract, code=2).stderr
    done = casemate(*extract, "--dangerously-allow-disk")
    assert json.loads(done.stdout)["entries"] == sealed["entries"]
    compare_trees(folder, tmp_path / "out")


def test_a_bill_of_materials_is_sealed_like_a_folder(tmp_path: Path) -> None:
    bill, image, key = tmp_path / "server.yaml", tmp_path / "image", tmp_path / "key"
    (tmp_path / "data").write_bytes(b"12345")
    bill.write_text(
        f"targets:\n  - target: /srv\n    copy: [{{from: {tmp_path}, files: [data]}}]\n"
        "write:\n  - {path: /etc/motto, content: hello}\n"
    )
    casemate("key", "new", key)
    sealed = json.loads(casemate("image", "seal", bill, image, "--key", key, "--json").stdout)
    listing = json.loads(casemate("image", "ls", image, "--key", key, "--json").stdout)
    assert [entry["path"] for entry in listing] == ["etc", "etc/motto", "srv", "srv/data"]
    assert sealed["entries"] == len(listing)
    assert [entry["size"] for entry in listing] == [0, 5, 0, 5]


def test_what_cannot_be_sealed_is_refused_with_what_could(tmp_path: Path) -> None:
    key, image, bill = tmp_path / "key", tmp_path / "image", tmp_path / "bill.yaml"
    casemate("key", "new", key)
    assert (
        "bom:model-server"
        in casemate("image", "seal", "bom:nothing", image, "--key", key, code=2).stderr
    )
    casemate("image", "seal", tmp_path / "absent.yaml", image, "--key", key, code=2)
    bill.write_text("tragets: []\n")
    refused = casemate("image", "seal", bill, image, "--key", key, code=3)
    assert f"{bill}:1" in refused.stderr
    assert "bom.malformed" in refused.stderr
    assert not image.exists()


@pytest.mark.parametrize(
    ("way", "how"),
    [
        ("mount", "is mounted through FUSE on"),
        ("mount --through=fuse", "is mounted through FUSE on"),
        ("mount --through=erofs", "is mounted through EROFS on"),
        ("mount --writable", "is mounted through FUSE, below a layer for changes, on"),
        ("open", "is mounted through FUSE on"),
        ("open --open=erofs", "is mounted through EROFS on"),
        ("open --open=erofs --writable", "is mounted through EROFS, below a layer for changes, on"),
        ("open --open=extract", "is extracted to"),
        ("open --open=extract --writable", "is extracted to"),
    ],
)
def test_what_is_opened_ends_with_its_program(tmp_path: Path, way: str, how: str) -> None:
    if "extract" not in way and fuse_available() is not None:
        pytest.skip(f"no mount here: {fuse_available()}")
    if "EROFS" in how and why_no_erofs():
        pytest.skip(f"no mount through EROFS here: {why_no_erofs()}")
    folder, image, key = make_folder(tmp_path / "tree"), tmp_path / "image", tmp_path / "key"
    (tmp_path / "mnt").mkdir()
    casemate("key", "new", key)
    casemate("image", "seal", folder, image, "--key", key)
    server = subprocess.Popen(
        [
            *_CASEMATE,
            "image",
            *way.split(),
            str(image),
            str(tmp_path / "mnt"),
            "--key",
            str(key),
            "--dangerously-allow-disk",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stderr is not None
    with server.stderr:
        said = server.stderr.readline()
        assert how in said
        compare_trees(folder, tmp_path / "mnt")
        if "writable" in way:
            (tmp_path / "mnt" / "bin" / "tool").write_text("changed")
        server.send_signal(signal.SIGHUP if "through" in way else signal.SIGTERM)
        assert server.wait(20) == 0
    assert not os.path.ismount(tmp_path / "mnt")
    assert list((tmp_path / "mnt").iterdir()) == []


def test_a_layer_for_changes_is_refused_where_nothing_may_be_mounted(tmp_path: Path) -> None:
    image, key = tmp_path / "image", tmp_path / "key"
    (tmp_path / "mnt").mkdir()
    casemate("key", "new", key)
    casemate("image", "seal", make_folder(tmp_path / "tree"), image, "--key", key)
    powerless = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    done = run_program(
        [
            *(powerless if os.geteuid() == 0 else ()), *_CASEMATE, "image", "mount", str(image),
            str(tmp_path / "mnt"), "--key", str(key), "--writable", "--dangerously-allow-disk",
        ]
    )  # fmt: skip
    assert done.status == 2
    assert "image.open" in done.stderr
    assert list((tmp_path / "mnt").iterdir()) == []


def test_each_cause_has_its_exit_code_and_remedy(tmp_path: Path) -> None:
    folder, image, key = make_folder(tmp_path / "tree"), tmp_path / "image", tmp_path / "key"
    casemate("key", "new", key)
    casemate("key", "new", tmp_path / "other", "--for", "occlum")
    casemate("image", "seal", folder, image, "--key", key)
    verify = ("image", "verify", image, "--key")
    refused = casemate(*verify, tmp_path / "other", "--json", code=4)
    assert json.loads(refused.stdout)["error"]["code"] == "image.wrong-key"
    assert "remedy" in refused.stderr
    assert "image.id" in casemate(*verify, key, "--id", "00" * 48, code=4).stderr
    casemate(*verify, key, "--id", "zz", code=3)
    casemate("image", "verify", key, "--key", key, code=3)
    casemate(*verify, image, code=3)
    casemate(*verify, tmp_path / "missing", code=2)
    casemate("key", "new", key, code=2)
    casemate("image", "extract", image, folder, "--key", key, code=2)
    with image.open("r+b") as host:
        host.seek(5000)
        host.write(b"changed")
    assert "chunk 0" in casemate(*verify, key, code=4).stderr


def test_a_key_is_never_printed(tmp_path: Path) -> None:
    for kind, size in (("image", 32), ("occlum", 16)):
        key = tmp_path / kind
        told = casemate("key", "new", key, "--for", kind, "--json").stdout
        told += casemate("key", "show", key).stdout + casemate("key", "show", key, "--json").stdout
        value = key.read_text().strip()
        assert value not in told
        assert value.replace("-", "") not in told
        assert json.loads(casemate("key", "show", key, "--json").stdout)["bytes"] == size


def sealed_with_key(tmp_path: Path, name: str, folder: Path) -> Path:
    image, key = tmp_path / name, tmp_path / "key"
    if not key.exists():
        casemate("key", "new", key)
    casemate("image", "seal", folder, image, "--key", key)
    return image


def test_a_file_of_an_image_is_written_to_stdout(tmp_path: Path) -> None:
    (folder := tmp_path / "tree").mkdir()
    content = os.urandom(3_000_000)
    (folder / "data").write_bytes(content)
    (folder / "same").hardlink_to(folder / "data")
    image = sealed_with_key(tmp_path, "image", folder)
    for path in ("data", "/same"):
        done = subprocess.run(
            [*_CASEMATE, "image", "cat", image, path, "--key", tmp_path / "key"],
            capture_output=True, check=True,
        )  # fmt: skip
        assert done.stdout == content


def test_what_is_no_file_is_not_written_as_if_it_were_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "tree" / "l").symlink_to("d")
    image = sealed_with_key(tmp_path, "image", tmp_path / "tree")
    for path, got in (("nothing", "no entry"), ("d", "a directory"), ("l", "a symlink")):
        done = casemate("image", "cat", image, path, "--key", tmp_path / "key", code=2)
        assert "image.no-entry" in done.stderr
        assert got in done.stderr


@pytest.mark.parametrize("command", [["cat", "large"], ["cat", "small"], ["ls"], ["ls", "--json"]])
def test_output_that_can_not_be_written_is_an_error(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").write_bytes(bytes(1 << 20))
    (tmp_path / "tree/small").write_bytes(b"x")
    image = sealed_with_key(tmp_path, "image", tmp_path / "tree")
    name, *rest = command
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*_CASEMATE, "image", name, image, *rest, "--key", tmp_path / "key"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, "output.unwritable" in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_names_from_others_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    """Whoever made a container image chose them; an escape sequence could rewrite the screen."""
    name = "a\x1b[2J\nfile 0644 b"
    (folder := tmp_path / "tree").mkdir()
    (folder / name).symlink_to(name)
    (tmp_path / "none").mkdir()
    image = sealed_with_key(tmp_path, "image", folder)
    empty = sealed_with_key(tmp_path, "empty", tmp_path / "none")
    key = ("--key", tmp_path / "key")
    for command in (
        ("ls", image, *key),
        ("diff", empty, image, *key),
        ("copy", folder, tmp_path / "copied", "--dry-run"),
        ("doctor", folder),
        ("extract", image, tmp_path / name, *key, "--dangerously-allow-disk"),
    ):
        said = casemate("image", *command)
        assert r"a\x1b[2J\x0afile 0644 b" in said.stdout, command
        assert "\x1b" not in said.stdout + said.stderr
    (listed,) = json.loads(casemate("image", "ls", image, *key, "--json").stdout)
    assert listed["path"] == listed["target"] == name


def _end_while(
    command: list[str | Path], begun: Callable[[int], bool], number: int, **environment: str
) -> int:
    """Send a program a signal when it has begun."""
    with subprocess.Popen(
        [*_CASEMATE, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    ) as program:  # fmt: skip
        while not begun(program.pid):
            assert program.poll() is None, "it ended before it could be stopped"
        program.send_signal(number)
        return program.wait(20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_of_an_extraction_that_is_stopped_nothing_decrypted_is_left(
    tmp_path: Path, number: int
) -> None:
    (folder := tmp_path / "tree").mkdir()
    for name in ("a", "b"):
        (folder / name).touch()
        os.truncate(folder / name, 80 << 20)
    image, out = sealed_with_key(tmp_path, "image", folder), tmp_path / "out"
    status = _end_while(
        ["image", "extract", image, out, "--key", tmp_path / "key", "--dangerously-allow-disk"],
        lambda _: out.exists() and any(out.iterdir()),
        number,
    )
    assert status == 130
    assert not out.exists()


def test_of_a_container_image_whose_sealing_is_stopped_no_layer_is_left(tmp_path: Path) -> None:
    """They may have been encrypted; what lies there isn't."""
    oci_layout(tmp_path / "image", [layer(File("large", bytes(96 << 20)))])
    (scratch := tmp_path / "scratch").mkdir()
    casemate("key", "new", key := tmp_path / "key")
    status = _end_while(
        ["image", "seal", f"oci:{tmp_path / 'image'}", tmp_path / "sealed", "--key", key],
        lambda _: any(scratch.glob("casemate-layers-*/*")),
        signal.SIGTERM,
        TMPDIR=str(scratch),
    )
    assert status == 130
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_of_a_sealing_that_is_stopped_nothing_is_left(tmp_path: Path, number: int) -> None:
    if number == signal.SIGKILL:
        try:
            os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o600))
        except OSError as error:
            pytest.skip(f"this file system has no files without a name: {error}")
    (folder := tmp_path / "tree").mkdir()
    (folder / "large").touch()
    os.truncate(folder / "large", 256 << 20)
    (images := tmp_path / "images").mkdir()
    casemate("key", "new", key := tmp_path / "key")

    def writes(pid: int) -> bool:
        with contextlib.suppress(OSError):
            held = [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]
            return any(path.parent == images for path in held)
        return False

    command: list[str | Path] = ["image", "seal", folder, images / "image", "--key", key]
    assert _end_while(command, writes, number) in (130, -signal.SIGKILL)
    assert list(images.iterdir()) == []


def test_two_images_are_compared_entry_by_entry(tmp_path: Path) -> None:
    (folder := tmp_path / "tree").mkdir()
    for name in ("same", "gone", "content", "mode"):
        (folder / name).write_text(name)
    old = sealed_with_key(tmp_path, "old", folder)
    (folder / "gone").unlink()
    (folder / "content").write_text("CONTENT")
    (folder / "mode").chmod(0o755)
    (folder / "added").write_text("more")
    new = sealed_with_key(tmp_path, "new", folder)
    arguments = ("image", "diff", old, new, "--key", tmp_path / "key")
    found = json.loads(casemate(*arguments, "--json").stdout)
    assert {each["path"]: (each["change"], each["what"]) for each in found} == {
        "added": ("added", []),
        "content": ("changed", ["content"]),
        "gone": ("removed", []),
        "mode": ("changed", ["mode"]),
    }
    assert "changed  content  content" in casemate(*arguments).stdout
    again = casemate("image", "diff", new, new, "--key", tmp_path / "key")
    assert (again.stdout, again.stderr) == ("", "the same tree\n")


def test_the_key_is_changed_without_another_byte(tmp_path: Path) -> None:
    (folder := tmp_path / "tree").mkdir()
    (folder / "data").write_bytes(os.urandom(600_000))
    image, key, new_key = (
        sealed_with_key(tmp_path, "image", folder),
        tmp_path / "key",
        tmp_path / "2",
    )
    casemate("key", "new", new_key)
    before = image.read_bytes()
    shown = json.loads(casemate("image", "show", image, "--json").stdout)
    done = casemate("image", "rekey", image, "--key", key, "--new-key", new_key, "--json")
    assert json.loads(done.stdout)["id"] == shown["id"]
    after = image.read_bytes()
    changed = [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert 0 < len(changed) <= 40
    assert max(changed) < 512
    assert "image.wrong-key" in casemate("image", "ls", image, "--key", key, code=4).stderr
    casemate("image", "verify", image, "--key", new_key, "--id", shown["id"])
    casemate("image", "rekey", image, "--key", key, "--new-key", new_key, code=4)
    assert image.read_bytes() == after


def test_why_a_file_is_in_an_image(tmp_path: Path) -> None:
    bill = tmp_path / "server.yaml"
    bill.write_text("targets:\n  - target: /bin\n    copy: [{files: [/bin/ls]}]\n")
    reasons = json.loads(
        casemate("image", "why", bill, f"/usr/lib/{_LIBRARIES}/libc.so.6", "--json").stdout
    )
    assert list(reasons)[-1] == "usr/bin/ls"
    bill.write_text("python: {}\n")
    loader = json.loads(casemate("image", "why", bill, "/usr/bin/python3", "--json").stdout)
    assert loader == {"usr/bin/python3": f"{bill}:1: interpreter"}
    bill.write_text("targets:\n  - target: /bin\n    copy: [{files: [/bin/ls]}]\n")
    assert reasons["usr/bin/ls"] == f"{bill}:3: files"
    assert "isn't in the tree" in casemate("image", "why", bill, "/etc/shadow", code=2).stderr


def test_why_is_answered_by_way_of_links_too(tmp_path: Path) -> None:
    """A loader is named by ``/lib64``, which is a link into ``/usr`` in the new root."""
    bill = tmp_path / "bill of materials.yaml"  # a reason names it; "of" is no further reason there
    bill.write_text(
        "targets:\n  - target: /bin\n    copy: [{files: [/bin/ls]}]\n"
        "    createlinks: [{src: //bin, linkname: loop}, {src: loop, linkname: other}]\n"
    )
    for path in ("/bin/ls", "usr/bin/ls", "/bin/other/../bin/./ls", "/bin/other/ls"):
        reasons = json.loads(casemate("image", "why", bill, path, "--json").stdout)
        assert reasons == {"usr/bin/ls": f"{bill}:3: files"}
    assert "--dry-run" in casemate("image", "why", bill, "/bin/other/absent", code=2).stderr


POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all")


def without_power(*arguments: str | Path) -> Finished:
    """``casemate`` as somebody whom the modes of files bind; root is, without two capabilities."""
    powerless = POWERLESS if os.geteuid() == 0 else ()
    return run_program([*powerless, *_CASEMATE, *map(str, arguments)])


@pytest.mark.parametrize("what", ["files: [{}/closed]", "dirs: [{}/]", "dirs: [{}/shut]"])
def test_what_a_bill_names_and_may_not_be_read_is_an_error_with_its_line(
    tmp_path: Path, what: str
) -> None:
    (folder := tmp_path / "in").mkdir()
    (folder / "closed").touch(0o000)
    (folder / "shut").mkdir(0o000)
    bill = tmp_path / "server.yaml"
    bill.write_text(f"targets:\n  - target: /a\n    copy: [{{{what.format(folder)}}}]\n")
    done = without_power("image", "copy", bill, tmp_path / "out", "--dry-run")
    assert (done.status, "bom.missing" in done.stderr) == (2, True), done.stderr
    assert f"{bill}:3: {folder}" in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "extract {image} {shut}/x --key {key}",
        "open {image} {shut}/x --key {key} --open extract",
        "mount {image} {shut}/x --key {key}",
        "seal {folder} {shut}/x --key {key}",
    ],
)
def test_a_place_that_may_not_be_looked_at_is_an_error_with_its_name(
    tmp_path: Path, command: str
) -> None:
    (folder := tmp_path / "tree").mkdir()
    (shut := tmp_path / "shut").mkdir()
    image = sealed_with_key(tmp_path, "image", folder)
    shut.chmod(0)
    words = command.format(image=image, folder=folder, shut=shut, key=tmp_path / "key").split()
    done = without_power("image", *words)
    assert "Traceback" not in done.stderr
    assert done.status == 2
    assert re.search(r"\[image\.[a-z-]+\]", done.stderr), done.stderr


@pytest.mark.parametrize("source", ["{}", "model:{}", "oci:{}", "oci:{}/index.json", "{}/a.yaml"])
def test_a_source_that_may_not_be_read_is_an_error_with_its_name(
    tmp_path: Path, source: str
) -> None:
    (folder := tmp_path / "in").mkdir()
    for name in ("m.safetensors", "index.json", "oci-layout", "a.yaml"):
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0)
    source = source.format(folder)
    casemate("key", "new", tmp_path / "key")
    done = without_power("image", "seal", source, tmp_path / "out", "--key", tmp_path / "key")
    assert (done.status, "Permission denied" in done.stderr) == (2, True), done.stderr
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_container_image_is_sealed_and_its_contract_drafted(tmp_path: Path) -> None:
    layers = [
        layer(
            File("usr/bin/server", b"#!", mode=0o755),
            File("etc/passwd", b"root:x:0:0::/:\nserve:x:1000:1001::/:\n"),
        ),
        layer(File("dev/null", kind=tarfile.CHRTYPE)),
    ]
    config = {"Entrypoint": ["server"], "Cmd": ["--port=1"], "User": "serve",
              "Env": ["PATH=/bin:/usr/bin", 'Q=a"b'], "WorkingDir": "/srv"}  # fmt: skip
    digest = oci_layout(tmp_path / "tf", layers, config=config)
    image, key, draft = (tmp_path / name for name in ("root.sealed", "image_key", "launch.toml"))
    casemate("key", "new", key)
    done = casemate("image", "seal", f"oci:{tmp_path / 'tf'}:latest", image, "--key", key,
                    "--draft", draft, "--json")  # fmt: skip
    assert json.loads(done.stdout)["container"] == digest
    assert "dev/null is left out" in done.stderr
    casemate("key", "new", "--for", "identity", tmp_path / "broker.key")
    casemate("contract", "build", draft, tmp_path / "launch.cbor")
    shown = json.loads(casemate("contract", "show", tmp_path / "launch.cbor", "--json").stdout)
    assert shown["argv"] == ["/usr/bin/server", "--port=1"]
    assert shown["environment"] == {"PATH": "/bin:/usr/bin", "Q": 'a"b'}
    assert (shown["uid"], shown["gid"], shown["working-directory"]) == (1000, 1001, "/srv")
    assert [each["key"] for each in shown["images"]] == ["image_key"]
    again = casemate("image", "seal", f"oci:{tmp_path / 'tf'}", tmp_path / "other", "--key", key,
                     "--draft", draft, code=2)  # fmt: skip
    assert "file.exists" in again.stderr
    assert not (tmp_path / "other").exists(), "it was sealed although its draft can't be written"


def test_only_a_container_image_has_a_contract_to_draft(tmp_path: Path) -> None:
    casemate("key", "new", tmp_path / "key")
    done = casemate("image", "seal", tmp_path, tmp_path / "image", "--key", tmp_path / "key",
                    "--draft", tmp_path / "draft", code=2)  # fmt: skip
    assert "image.draft" in done.stderr
    assert not (tmp_path / "image").exists()


def test_a_tree_is_copied_and_then_only_what_changed(tmp_path: Path) -> None:
    (tmp_path / "bill.yaml").write_text("includes: [more.yaml]\nwrite: [{path: a, content: A}]\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/more.yaml").write_text("write: [{path: b/c, content: C}]\n")
    source = ["image", "copy", str(tmp_path / "bill.yaml"), str(tmp_path / "out")]
    source += ["-i", str(tmp_path / "more")]
    dry = casemate(*source, "--dry-run")
    assert [line.split()[-1] for line in dry.stdout.splitlines()] == ["a", "b", "b/c"]
    assert not (tmp_path / "out").exists()
    assert json.loads(casemate(*source, "--json").stdout)["changed"] == 3
    assert (tmp_path / "out/b/c").read_text() == "C"
    assert json.loads(casemate(*source, "--json").stdout)["changed"] == 0


@pytest.mark.parametrize("source", ["", "model:", "oci:", "docker-archive:", "bom:", "registry:"])
def test_no_name_does_not_mean_the_working_folder(tmp_path: Path, source: str) -> None:
    """It's what an unset variable comes to in a script."""
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [*_CASEMATE, "image", "copy", source, tmp_path / "out"],
        capture_output=True, check=False, cwd=tmp_path / "here",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert not (tmp_path / "out").exists()


def test_what_can_be_sealed_can_be_copied(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/w.pkl").write_bytes(b"\x80\x04.")
    copy = ("image", "copy", f"model:{tmp_path / 'model'}", tmp_path / "out")
    assert "model.code" in casemate(*copy, code=2).stderr
    casemate(*copy, "--allow-pickle")
    assert (tmp_path / "out/w.pkl").exists()
    for name in ("--decryption-key", "--auth-file", "--ca-file", "--plain-http"):
        assert name in casemate("image", "copy", "--help").stdout


def test_how_far_it_is_is_shown_on_a_terminal_alone(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/large").touch()
    os.truncate(tmp_path / "tree/large", 80 << 20)
    command = [*_CASEMATE, "image", "copy", str(tmp_path / "tree"), str(tmp_path / "out")]
    ours, its = pty.openpty()
    with subprocess.Popen(
        command, stderr=its, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"}
    ) as program:
        os.close(its)
        said = b""
        with contextlib.suppress(OSError):  # how a terminal ends
            while piece := os.read(ours, 4096):
                said += piece
        assert program.wait(20) == 0
    os.close(ours)
    assert b"copying" in said
    assert "copying" not in casemate(*command[len(_CASEMATE) :]).stderr


def test_a_doctor_says_what_is_probably_missing(tmp_path: Path) -> None:
    (tmp_path / "bill.yaml").write_text(
        "write: [{path: run, mode: '0755', content: \"#!/bin/absent\\n\"}]\n"
    )
    told = casemate("image", "doctor", str(tmp_path / "bill.yaml")).stdout
    assert "interpreter: /bin/absent (asked for by run)" in told
    found = json.loads(casemate("image", "doctor", str(tmp_path / "bill.yaml"), "--json").stdout)
    assert [each["what"] for each in found] == ["interpreter"]


def test_a_container_image_is_encrypted_for_a_recipient_and_sealed_by_it(tmp_path: Path) -> None:
    for arguments in (
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "guest.pem"],
        ["ec", "-in", "guest.pem", "-pubout", "-out", "guest.pub"],
    ):
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)
    casemate("key", "new", tmp_path / "key")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/a").write_text("A")
    out, sealed = tmp_path / "out", tmp_path / "a.sealed"
    casemate("image", "export", tmp_path / "tree", out, code=2)
    casemate(
        "image", "export", tmp_path / "tree", out, "--recipient", tmp_path / "guest.pub",
        "--argv", "/bin/a", "--argv", "-b",
    )  # fmt: skip
    seal = ["image", "seal", f"oci:{out}", sealed, "--key", tmp_path / "key"]
    assert "container.encrypted" in casemate(*seal, code=2).stderr
    casemate(
        *seal, "--decryption-key", tmp_path / "guest.pem", "--draft", tmp_path / "draft.toml",
        "--dangerously-allow-disk",
    )  # fmt: skip
    assert casemate("image", "cat", sealed, "a", "--key", tmp_path / "key").stdout == "A"
    assert 'argv = ["/bin/a", "-b"]' in (tmp_path / "draft.toml").read_text()


def test_a_model_is_looked_at_and_its_weights_are_told(tmp_path: Path) -> None:
    casemate("key", "new", tmp_path / "key")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/a.safetensors").write_bytes(safetensors())
    (tmp_path / "model/b.pt").write_bytes(b"x")
    seal = ["image", "seal", f"model:{tmp_path}/model", tmp_path / "m", "--key", tmp_path / "key"]
    assert "model.code" in casemate(*seal, code=2).stderr
    done = casemate(*seal, "--allow-pickle", "--json")
    assert "b.pt runs code" in done.stderr
    shown = casemate("image", "show", tmp_path / "m", "--key", tmp_path / "key", "--json")
    weights = json.loads(done.stdout)["weights"]
    assert len(weights) == 64
    assert json.loads(shown.stdout)["weights"] == weights


def test_what_only_has_the_name_of_a_record_of_weights_is_shown_as_any_other(
    tmp_path: Path,
) -> None:
    (tmp_path / "tree/.casemate-model.json").mkdir(parents=True)
    key = ("--key", tmp_path / "key")
    casemate("key", "new", tmp_path / "key")
    casemate("image", "seal", tmp_path / "tree", tmp_path / "m", *key)
    shown = casemate("image", "show", tmp_path / "m", *key, "--json")
    assert json.loads(shown.stdout)["entries"] == 1


def test_a_sealed_image_goes_to_a_registry_and_comes_back(tmp_path: Path) -> None:
    casemate("key", "new", tmp_path / "key")
    sealed, back = tmp_path / "a.sealed", tmp_path / "b.sealed"
    make_folder(tmp_path / "tree")
    casemate("image", "seal", tmp_path / "tree", sealed, "--key", tmp_path / "key")
    with running(FakeRegistry()) as registry:
        pushed = casemate("image", "push", sealed, f"{registry.host}/models/a:1", "--json")
        report = json.loads(pushed.stdout)
        casemate("image", "pull", report["reference"], back, "--id", report["id"])
        assert back.read_bytes() == sealed.read_bytes()
        other = tmp_path / "c.sealed"
        refused = casemate(
            "image", "pull", f"{registry.host}/models/a:1", other, "--id", "00" * 48, code=4
        )
        assert "image.id" in refused.stderr
        absent = casemate("image", "pull", f"{registry.host}/models/a:2", other, code=2)
        assert "registry.absent" in absent.stderr
    assert not other.exists()
