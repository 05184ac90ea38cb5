"""Changing the key of an image in its own file."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from tests.support.trees import KEY, OTHER_KEY, file

from casemate.errors import CasemateError, NotGenuineError
from casemate.image.format import PAYLOAD_START
from casemate.image.reader import open_image
from casemate.image.rekey import rekey
from casemate.image.seal import seal


def test_only_the_slot_changes_and_the_new_key_opens(tmp_path: Path) -> None:
    info = seal([file("a", b"1")], KEY, tmp_path / "image")
    before = info.path.read_bytes()
    assert rekey(info.path, KEY, OTHER_KEY) == info.id
    after = info.path.read_bytes()
    assert before[PAYLOAD_START:] == after[PAYLOAD_START:]
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 40
    with open_image(info.path, OTHER_KEY, info.id) as image:
        assert [entry.path for entry in image] == ["a"]
    with pytest.raises(NotGenuineError):
        open_image(info.path, KEY)


def test_the_wrong_key_changes_nothing(tmp_path: Path) -> None:
    info = seal([file("a", b"1")], KEY, tmp_path / "image")
    before = info.path.read_bytes()
    with pytest.raises(NotGenuineError):
        rekey(info.path, OTHER_KEY, KEY)
    assert info.path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("missing", "image.unreadable"),
        ("folder", "image.unreadable"),
        ("pipe", "image.magic"),
        ("empty", "image.magic"),
        ("text", "image.magic"),
    ],
)
def test_what_is_no_image_is_said_at_once(tmp_path: Path, name: str, code: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_bytes(b"x" * PAYLOAD_START)
    os.mkfifo(tmp_path / "pipe")
    # Nobody may be waited for who would write into a pipe: after a while, somebody does.
    rescue = threading.Timer(5, lambda: (tmp_path / "pipe").write_bytes(b"x"))
    rescue.daemon = True
    rescue.start()
    begin = time.monotonic()
    with pytest.raises(CasemateError) as caught:
        rekey(tmp_path / name, KEY, OTHER_KEY)
    rescue.cancel()
    assert caught.value.code == code
    assert time.monotonic() - begin < 4
