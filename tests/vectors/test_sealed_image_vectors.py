"""The vectors of specs/sealed-image.md: our reader, our sealer and their maker agree with them."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.support import vectors
from tests.support.trees import file

from casemate.errors import CasemateError
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry
from casemate.types import Secret, Sha384

_SPEC = "sealed-image"
_CASES = vectors.names(_SPEC, "accepted-", "refused-")


def read_all(path: Path, case: dict[str, str]) -> list[dict[str, object]]:
    expected = Sha384(bytes.fromhex(case["id"])) if "id" in case else None
    with open_image(path, Secret(bytes.fromhex(case["key"])), expected) as image:
        image.verify_all(threads=1)
        return [
            {
                "path": entry.path,
                "kind": entry.kind.value,
                "mode": f"{entry.mode:04o}",
                "uid": entry.uid,
                "gid": entry.gid,
                "mtime": entry.mtime,
                "target": entry.target,
                "xattrs": {name: value.hex() for name, value in entry.xattrs},
                "content": image.read_file(entry).hex() if entry.size else "",
            }
            for entry in image
        ]


@pytest.mark.parametrize("name", _CASES)
def test_each_vector_is_accepted_or_refused_as_it_says(tmp_path: Path, name: str) -> None:
    case = vectors.load(_SPEC, name)
    image = tmp_path / "image"
    image.write_bytes(base64.decodebytes(vectors.text(_SPEC, name, "image").encode()))
    assert hashlib.sha256(image.read_bytes()).hexdigest() == case["sha256"]
    if "accepted" in case:
        assert read_all(image, case) == case["accepted"]
        return
    with pytest.raises(CasemateError) as caught:
        read_all(image, case)
    assert caught.value.code == case["error"]


@pytest.mark.parametrize(
    "name",
    [
        *("accepted-tree", "accepted-empty", "accepted-16-byte-key"),
        *("sealed-three-chunks", "sealed-large-file"),
    ],
)
def test_sealing_gives_the_very_file(tmp_path: Path, name: str) -> None:
    case = vectors.load(_SPEC, name)
    key = Secret(bytes.fromhex(case["key"]))
    info = seal(tree_of(case), key, tmp_path / "image")
    assert str(info.id) == case["id"]
    assert hashlib.sha256(info.path.read_bytes()).hexdigest() == case["sha256"]
    with open_image(info.path, key, info.id) as image:
        image.verify_all()


def tree_of(case: dict[str, Any]) -> list[TreeEntry]:
    if "recipe" in case:
        recipe = case["recipe"]
        content = bytes.fromhex(recipe["repeat"]) * recipe["times"]
        return [file(recipe["path"], content, int(recipe["mode"], 8))]
    return [
        TreeEntry(
            path=entry["path"],
            kind=EntryKind(entry["kind"]),
            mode=int(entry["mode"], 8),
            uid=entry["uid"],
            gid=entry["gid"],
            mtime=entry["mtime"],
            target=entry["target"],
            xattrs=tuple((name, bytes.fromhex(value)) for name, value in entry["xattrs"].items()),
            size=len(entry["content"]) // 2,
            source=bytes.fromhex(entry["content"]) if entry["kind"] == "file" else None,
        )
        for entry in case["accepted"]
    ]


def test_the_generator_makes_the_same_vectors_again() -> None:
    assert vectors.generated(_SPEC) == vectors.stored(_SPEC)
