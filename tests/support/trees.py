"""Small directory trees and sealed images of them, for tests."""

from __future__ import annotations

import os
from pathlib import Path

from casemate.image.seal import SealedImageInfo, seal
from casemate.image.tree import EntryKind, TreeEntry, tree_from_directory
from casemate.types import Secret

KEY = Secret(bytes(range(32)))
OTHER_KEY = Secret(bytes(range(1, 33)))
CHUNK = 64 * 1024


def file(path: str, content: bytes, mode: int = 0o644) -> TreeEntry:
    return TreeEntry(path=path, kind=EntryKind.FILE, mode=mode, size=len(content), source=content)


def directory(path: str, mode: int = 0o755) -> TreeEntry:
    return TreeEntry(path=path, kind=EntryKind.DIRECTORY, mode=mode)


def symlink(path: str, target: str) -> TreeEntry:
    return TreeEntry(path=path, kind=EntryKind.SYMLINK, mode=0o777, target=target)


def hardlink(path: str, target: str) -> TreeEntry:
    return TreeEntry(path=path, kind=EntryKind.HARDLINK, mode=0o644, target=target)


def varied(length: int, seed: int = 0) -> bytes:
    """Bytes in which no two stretches are alike."""
    block = b"".join((seed + i).to_bytes(8, "big") for i in range(length // 8 + 1))
    return block[:length]


def make_folder(root: Path) -> Path:
    """A folder with something of everything that can be sealed."""
    (root / "bin").mkdir(parents=True)
    (root / "etc" / "empty").mkdir(parents=True)
    (root / "bin" / "tool").write_bytes(varied(3 * CHUNK + 77))
    (root / "bin" / "tool").chmod(0o755)
    (root / "etc" / "naïve – ünïcode").write_text("hello")
    (root / "etc" / "nothing").touch()
    (root / "etc" / ("long" * 50)).write_bytes(b"x" * 513)
    (root / "etc" / "link").symlink_to("../bin/tool")
    (root / "etc" / "outside").symlink_to("/etc/passwd")
    os.link(root / "etc" / "nothing", root / "etc" / "nothing too")
    for number in range(20):
        (root / "etc" / f"small-{number}").write_bytes(varied(1000 * number, number))
    return root


def seal_folder(tmp_path: Path, key: Secret = KEY) -> tuple[Path, SealedImageInfo]:
    folder = make_folder(tmp_path / "tree")
    return folder, seal(tree_from_directory(folder), key, tmp_path / "image")


def compare_trees(left: Path, right: Path, *, links: bool = True) -> None:
    """Both trees have the same names, kinds, modes, contents, targets and numbers of links."""
    names = sorted(str(path.relative_to(left)) for path in left.rglob("*"))
    assert names == sorted(str(path.relative_to(right)) for path in right.rglob("*"))
    for name in names:
        one, other = left / name, right / name
        assert one.is_symlink() == other.is_symlink(), name
        if one.is_symlink():
            assert one.readlink() == other.readlink()
            continue
        assert one.stat().st_mode == other.stat().st_mode, name
        if one.is_file():
            assert one.read_bytes() == other.read_bytes(), name
            assert not links or one.stat().st_nlink == other.stat().st_nlink, name
