"""A bill for Occlum's copy_bom gives the tree that copy_bom makes with rsync.

Source: its README: files by ``rsync -aL``, folders by ``rsync -ar --copy-unsafe-links`` with the
bill's excludes, links by ``ln -s``; targets in their order, later files over earlier ones.
"""

import shutil
import subprocess

import pytest

from casemate.image.copying import copy_tree
from casemate.project.sources import read_source

RSYNC = shutil.which("rsync")
BILL = """
includes: [base.yaml]
excludes: ["*.pyc", build/, /model/old]
targets:
  - target: /bin
    createlinks: [{src: ../srv/tool, linkname: tool}]
  - target: /srv
    mkdirs: [log, deep/er]
    copy:
      - from: ${FROM}
        files: [tool, {name: data/config, rename: settings.conf}, {name: link, autodep: false}]
      - from: ${FROM}
        dirs: [data/model, data/flat/]
  - target: /whole
    copy:
      - from: ${FROM}/small
"""
BASE = """
targets:
  - target: /srv
    copy:
      - from: ${FROM}/data
        files: [{name: other, rename: settings.conf}]
"""
FILES = (
    "tool", "data/config", "data/other", "data/model/1/weights", "data/model/1/a.pyc",
    "data/model/build/x", "data/model/old/y", "data/model/1/old/kept", "data/flat/f",
    "data/flat/s/g",
    "small/a", "small/b/c", "shared/lib", "shared/more/d",
)  # fmt: skip
LINKS = {
    "link": "data/other", "data/model/inside": "1/weights", "data/model/up": "1/../1/weights",
    "data/model/sibling": "../config", "data/model/out": "../../data/config",
    "data/model/top": "..",
    "data/model/1/up": "../inside", "data/flat/folder": "../../shared/more",
    "data/model/system": "/usr/bin/env", "data/flat/build": "f",
}  # fmt: skip


def rsync(*arguments):
    subprocess.run([RSYNC, *map(str, arguments)], check=True, capture_output=True)


def with_rsync(source, out):
    """What copy_bom runs for these bills."""
    for folder in ("bin", "srv/log", "srv/deep/er", "whole"):
        (out / folder).mkdir(parents=True)
    rsync("-aL", source / "data/other", out / "srv/settings.conf")
    (out / "bin/tool").symlink_to("../srv/tool")
    excludes = ["--exclude=*.pyc", "--exclude=build/", "--exclude=/model/old"]
    folders = ["-ar", "--copy-unsafe-links", *excludes]
    rsync(*folders, source / "data/model", out / "srv")
    rsync(*folders, f"{source}/data/flat/", out / "srv")
    rsync(*folders, f"{source}/small/", out / "whole")
    for name, target in (("tool", "tool"), ("data/config", "settings.conf"), ("link", "link")):
        rsync("-aL", source / name, out / "srv" / target)


def listed(folder):
    found = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


@pytest.mark.skipif(RSYNC is None, reason="needs rsync")
def test_the_same_tree_as_with_rsync(tmp_path, monkeypatch):
    source = tmp_path / "from"
    for name in FILES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    for name, target in LINKS.items():
        (source / name).symlink_to(target)
    (tmp_path / "bill.yaml").write_text(BILL)
    (tmp_path / "base.yaml").write_text(BASE)
    monkeypatch.setenv("FROM", str(source))
    (tmp_path / "theirs").mkdir()
    with_rsync(source, tmp_path / "theirs")
    tree = read_source(str(tmp_path / "bill.yaml"))
    list(copy_tree(tree.entries, tmp_path / "ours"))
    theirs, ours = listed(tmp_path / "theirs"), listed(tmp_path / "ours")
    # Here /bin and /lib are links into /usr, and the system's program brings its libraries.
    places = ("bin", "lib", "lib64", "usr")
    assert ours["usr/bin/tool"] == theirs["bin/tool"]
    for tree in (ours, theirs):
        for path in [path for path in tree if path.split("/")[0] in places]:
            del tree[path]
    assert ours == theirs
