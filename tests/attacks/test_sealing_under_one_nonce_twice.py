"""Somebody writes to the tree while it is sealed: no nonce of a key may meet two plaintexts.

The content key follows from the first pass's digests, so what the second pass encrypts under it
must be what the first one saw. Whoever got two ciphertexts under one key and nonce would have the
difference of their plaintexts, and could forge. What was encrypted counts even if sealing fails
later: it lay in a file.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.support.trees import CHUNK, KEY, varied

from casemate.errors import UsageError
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import tree_from_directory

CHUNKS = 40  # of the file's content: two whole runs and a part of one


@dataclass
class Uses:
    """Every encryption that was asked of the library: (key, nonce) → plaintexts."""

    plaintexts: Counter[tuple[bytes, bytes, bytes]] = field(default_factory=Counter)
    on_digest: Callable[[int], None] = lambda number: None

    def twice(self) -> list[tuple[bytes, bytes]]:
        pairs = Counter((key, nonce) for key, nonce, _ in self.plaintexts)
        return [pair for pair, count in pairs.items() if count > 1]

    def cipher(self, key: bytes) -> Recorded:
        return Recorded(self, key)


class Recorded:
    """The library's AES-GCM, which does what it does, and tells."""

    def __init__(self, uses: Uses, key: bytes) -> None:
        self._uses, self._key, self._cipher = uses, bytes(key), AESGCM(key)

    def encrypt_into(
        self, nonce: bytes, data: memoryview | bytes, associated: bytes, buffer: memoryview
    ) -> int:
        if data:
            self._uses.plaintexts[self._key, nonce, bytes(data)] += 1
        written = self._cipher.encrypt_into(nonce, data, associated, buffer)
        if not data:
            self._uses.on_digest(int.from_bytes(nonce, "big"))
        return written


@pytest.fixture
def uses(monkeypatch: pytest.MonkeyPatch) -> Uses:
    recorder = Uses()
    monkeypatch.setattr("casemate.image.seal.AESGCM", recorder.cipher)
    return recorder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tree" / "model"
    path.parent.mkdir()
    path.write_bytes(varied(CHUNKS * CHUNK))
    return path


def overwrite(path: Path, data: bytes, offset: int) -> None:
    with path.open("r+b") as opened:
        os.pwrite(opened.fileno(), data, offset)


def test_a_sealing_encrypts_every_chunk_once(tmp_path: Path, model: Path, uses: Uses) -> None:
    info = seal(tree_from_directory(model.parent), KEY, tmp_path / "image", threads=3)
    assert set(uses.plaintexts.values()) == {1}
    chunks = -(-info.payload_size // CHUNK) + 1  # and the table of contents
    assert len({(key, nonce) for key, nonce, _ in uses.plaintexts}) == chunks
    assert uses.twice() == []


@pytest.mark.parametrize("place", [0, 1, 14, 15, 16, CHUNKS - 1])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_chunk_that_changes_between_the_passes(
    tmp_path: Path, model: Path, uses: Uses, place: int, threads: int
) -> None:
    tree = tree_from_directory(model.parent)
    seal(tree, KEY, tmp_path / "before")

    def change(done: int, total: int) -> None:
        if total // 2 <= done:
            overwrite(model, b"X", place * CHUNK + 5)

    with pytest.raises(UsageError) as caught:
        seal(tree, KEY, tmp_path / "image", threads=threads, progress=change)
    assert caught.value.code == "image.changed-while-sealing"
    assert uses.twice() == []


def test_chunks_that_change_places_between_the_passes(
    tmp_path: Path, model: Path, uses: Uses
) -> None:
    tree = tree_from_directory(model.parent)
    seal(tree, KEY, tmp_path / "before")
    content = model.read_bytes()

    def change(done: int, total: int) -> None:
        if total // 2 <= done:
            overwrite(model, content[CHUNK : 2 * CHUNK] + content[:CHUNK], 0)

    with pytest.raises(UsageError):
        seal(tree, KEY, tmp_path / "image", threads=1, progress=change)
    assert uses.twice() == []


def test_a_chunk_that_changes_between_its_comparison_and_its_encryption(
    tmp_path: Path, model: Path, uses: Uses
) -> None:
    tree = tree_from_directory(model.parent)
    seal(tree, KEY, tmp_path / "before")
    content = model.read_bytes()
    seen: Counter[int] = Counter()

    def change(number: int) -> None:
        seen[number] += 1
        if seen[number] == 2 and 0 < number <= CHUNKS:  # the second pass has just looked at it
            overwrite(model, b"X" * CHUNK, (number - 1) * CHUNK)  # the tar header has chunk 0

    uses.on_digest = change
    info = seal(tree, KEY, tmp_path / "image", threads=1)
    assert uses.twice() == []
    assert set(model.read_bytes()) == {ord("X")}
    with open_image(info.path, KEY, info.id) as image:
        assert image.read_file("model") == content


def test_a_file_that_never_stops_changing(tmp_path: Path, model: Path, uses: Uses) -> None:
    tree = tree_from_directory(model.parent)
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            overwrite(model, number.to_bytes(8, "big"), number * 7 % CHUNKS * CHUNK)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    failed = 0
    try:
        for _ in range(10):
            try:
                seal(tree, KEY, tmp_path / "image")
            except UsageError:
                failed += 1
    finally:
        stop.set()
        disturber.join()
    assert failed
    assert uses.twice() == []
