"""The same input and key give the same bytes on another day, to another user, in another place."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.containers import File, docker_archive, layer, oci_layout
from tests.support.elf_files import elf
from tests.support.models import gguf
from tests.support.packages import install

import casemate

# What a build may notice of its surroundings, turned round: the time, the order in which folders
# are listed, the random numbers of others, what this process was given.
BUILD = """
import json, os, random, sys, time
from pathlib import Path

reverse, day = json.loads(sys.argv[1])
real_scandir, real_listdir, real_time = os.scandir, os.listdir, time.time

class Listing(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass
    def __iter__(self): return self
    def __next__(self): return self.pop(0) if self else self.stop()
    def stop(self): raise StopIteration

def scandir(path="."):
    with real_scandir(path) as found:
        return Listing(sorted(found, key=lambda e: e.name, reverse=reverse))

os.scandir = scandir
os.listdir = lambda path=".": sorted(real_listdir(path), reverse=reverse)
time.time = lambda: real_time() + day
random.seed(day)

from casemate.image.seal import seal
from casemate.project.sources import read_source
from casemate.types import Secret

os.umask(int(sys.argv[2], 8))
report = {}
for name, source in json.loads(sys.argv[3]).items():
    tree = read_source(source)
    target = Path(sys.argv[4]) / name
    seal(tree.entries, Secret(bytes(range(32))), target)
    report[name] = str(tree.warnings)
print(json.dumps(report))
"""


def inputs(here: Path) -> dict[str, str]:
    """Something of every kind of source."""
    site = install(here / "site", "planted", {"planted/__init__.py": "X = {'a', 'b'}\n"})
    files = here / "files"
    for name in [f"d/f{n}" for n in range(20)] + ["d/sub/x", "tool", "lib/liba.so"]:
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).write_text(name)
    (files / "tool").write_bytes(elf(needed=["liba.so"], runpath="$ORIGIN/lib"))
    (files / "lib/liba.so").write_bytes(elf())
    (files / "tool").chmod(0o755)
    (files / "d/link").symlink_to("f1")
    (files / "second").hardlink_to(files / "tool")
    (here / "bill.yaml").write_text(
        "users: [{name: server, uid: 7, gid: 7}]\n"
        f"python: {{packages: {site}, distributions: [planted], excludes: ['[a-oq-z]*']}}\n"
        f"targets: [{{target: /srv, copy: [{{from: {files}, owner: server, dirs: [d], "
        "files: [tool, 'd/f*']}]}]\n"
        "write: [{path: /etc/motto, content: a}]\n"
    )
    (here / "model").mkdir()
    (here / "model/a.gguf").write_bytes(gguf())
    layers = [layer(File("etc/a", b"1")), layer(File("etc/b", b"2"), File("etc/.wh.a", b""))]
    oci_layout(here / "oci", layers)
    docker_archive(here / "docker.tar", layers)
    return {
        "bill": str(here / "bill.yaml"), "folder": str(files), "model": f"model:{here}/model",
        "oci": f"oci:{here}/oci", "docker": f"docker-archive:{here}/docker.tar",
    }  # fmt: skip


def reachable(path: Path) -> bool:
    """Whether any user may read a file."""
    return all(place.stat().st_mode & 0o005 for place in (path, *path.parents))


def interpreter() -> str:
    """One of our version that another user can run; ours may lie in a private folder."""
    for path in (Path(sys.executable).resolve(), Path("/usr/bin/python3").resolve()):
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        if path.exists() and reachable(path) and version in path.name:
            return str(path)
    return sys.executable


def build(here: Path, out: Path, *, world: tuple[bool, int], umask: str, user: int, **environment):
    out.mkdir()
    if os.geteuid() == 0:
        os.chown(out, user, user)
    ours = str(Path(casemate.__file__).parent.parent)
    packages = [ours, *(path for path in sys.path if path.endswith("-packages"))]
    done = subprocess.run(
        [interpreter(), "-c", BUILD, json.dumps(world), umask, json.dumps(inputs(here)), str(out)],
        capture_output=True, text=True, timeout=100, cwd=here,
        env={
            "PATH": os.environ["PATH"], "HOME": str(out), "TMPDIR": str(out),
            "PYTHONPATH": os.pathsep.join(packages), **environment,
        },
        user=user if os.geteuid() == 0 else None, group=user if os.geteuid() == 0 else None,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: (out / name).read_bytes() for name in json.loads(done.stdout)}


@pytest.fixture
def open_to_all():
    """A folder that another user reaches too; pytest's own are private."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"casemate-reproducible-{os.getpid()}"
    folder.mkdir(mode=0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_same_input_gives_the_same_bytes_whoever_builds_where_and_when(open_to_all):
    one, other = open_to_all / "one", open_to_all / "in/another/place"
    one.mkdir()
    other.mkdir(parents=True)
    both = all(map(reachable, (Path(interpreter()), Path(casemate.__file__))))
    first = build(
        one, open_to_all / "first", world=(False, 0), umask="022", user=os.geteuid(),
        LC_ALL="C", TZ="UTC", PYTHONHASHSEED="1", SOURCE_DATE_EPOCH="1",
    )  # fmt: skip
    second = build(
        other, open_to_all / "second", world=(True, 5_000_000), umask="077",
        user=65534 if both else os.geteuid(),
        LC_ALL="C.UTF-8", TZ="Asia/Tokyo", PYTHONHASHSEED="2", LANG="tr_TR", COLUMNS="1",
    )  # fmt: skip
    assert set(first) == {"bill", "folder", "model", "oci", "docker"}
    for name, data in first.items():
        assert data == second[name], name
