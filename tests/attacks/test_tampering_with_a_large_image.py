"""The host changes an image of more than one block of tags, at places picked by chance (P11)."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.attacks.test_tampering_with_an_image import forged, written
from tests.support.trees import CHUNK, KEY, file, varied

from casemate.errors import CasemateError, MalformedError, NotGenuineError
from casemate.image.file import ImageFile
from casemate.image.format import PAYLOAD_START, TAG_SIZE, TAGS_IN_BLOCK, Header
from casemate.image.reader import open_image
from casemate.image.seal import SealedImageInfo, seal
from casemate.image.tree import EntryKind, TreeEntry

_SIZE = (TAGS_IN_BLOCK + 20) * CHUNK + 777


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> SealedImageInfo:
    """257 MiB, mostly zeros: a file without blocks of its own on the disk."""
    folder = tmp_path_factory.mktemp("large")
    with (folder / "source").open("wb") as source:
        source.write(varied(3 * CHUNK))
        source.truncate(_SIZE)
    tree = [
        file("0", b"small"),
        TreeEntry(path="a", kind=EntryKind.FILE, mode=0o644, size=_SIZE, source=folder / "source"),
    ]
    return seal(tree, KEY, folder / "image")


def header_of(path: Path) -> Header:
    image = ImageFile(path)
    image.close()
    return image.header


def chunk_needed(header: Header, position: int) -> int:
    """The payload chunk whose reading must notice a change at ``position`` of the file."""
    if position < header.tags_start:
        return min(max(position - PAYLOAD_START, 0) // CHUNK, header.payload_chunks - 1)
    block = (position - header.tags_start) // (TAG_SIZE * TAGS_IN_BLOCK)
    return min(block, header.tag_blocks - 1) * TAGS_IN_BLOCK


def read_chunk(large: SealedImageInfo, chunk: int, buffer: memoryview) -> None:
    with open_image(large.path, KEY, large.id) as image:
        image.read_payload_into(buffer, chunk * CHUNK)


@contextmanager
def flipped(path: Path, position: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR)
    try:
        before = os.pread(descriptor, 1, position)
        os.pwrite(descriptor, bytes([before[0] ^ 1 << position % 8]), position)
        yield
        os.pwrite(descriptor, before, position)
    finally:
        os.close(descriptor)


def test_a_read_across_two_blocks_of_tags_needs_both(large: SealedImageInfo) -> None:
    header = header_of(large.path)
    buffer = memoryview(bytearray(12 * CHUNK))
    with open_image(large.path, KEY, large.id) as image:
        first = (TAGS_IN_BLOCK - 5) * CHUNK
        assert image.entry("a").offset < first
        image.read_payload_into(buffer, first)
        assert not any(buffer)
    for block in (0, 1):
        position = header.tags_start + block * TAG_SIZE * TAGS_IN_BLOCK
        with flipped(large.path, position), pytest.raises(NotGenuineError) as caught:
            read_chunk(large, TAGS_IN_BLOCK - 5, buffer)
        assert caught.value.code == "image.tags"
        assert f"block {block} " in caught.value.message


def test_flipping_a_byte_anywhere_is_an_error_to_who_reads_there(large: SealedImageInfo) -> None:
    header, chance = header_of(large.path), random.Random(4)
    places = [chance.randrange(PAYLOAD_START, header.tags_start) for _ in range(120)]
    places += [chance.randrange(header.tags_start, header.file_size) for _ in range(80)]
    places += [header.tags_start, header.digests_start, header.digests_start + 48]
    places += [header.file_size - 1, PAYLOAD_START, header.tags_start - 1]
    for position in places:
        chunk = chunk_needed(header, position)
        buffer = memoryview(bytearray(header.chunk_span(chunk)[1]))
        with flipped(large.path, position):
            with pytest.raises(NotGenuineError) as caught:
                read_chunk(large, chunk, buffer)
            assert str(large.path) in caught.value.message
            if position < PAYLOAD_START + header.payload_size:
                assert caught.value.field == f"chunk {chunk}"
    with open_image(large.path, KEY, large.id) as image:
        image.verify_all()


def test_cutting_at_any_border_is_an_error(large: SealedImageInfo, tmp_path: Path) -> None:
    header, copy = header_of(large.path), tmp_path / "copy"
    with large.path.open("rb") as image, copy.open("wb") as out:
        out.write(image.read(PAYLOAD_START))
        out.truncate(header.file_size)  # a cut is noticed before anything but this is read
    borders = [header.file_size - 1, header.digests_start + 48, header.digests_start]
    borders += [header.tags_start + TAG_SIZE * TAGS_IN_BLOCK, header.tags_start]
    borders += [PAYLOAD_START + header.payload_size]
    borders += [PAYLOAD_START + CHUNK * n for n in range(header.payload_chunks, -1, -1)]
    for length in sorted(borders, reverse=True):
        os.truncate(copy, length)
        with pytest.raises(MalformedError) as caught:
            open_image(copy, KEY, large.id)
        assert caught.value.code == "image.size"
    os.truncate(copy, PAYLOAD_START - 1)
    with pytest.raises(CasemateError):
        open_image(copy, KEY, large.id)


def test_exchanging_tags_between_blocks_is_an_error(large: SealedImageInfo) -> None:
    header = header_of(large.path)
    first, second = header.tags_start, header.tags_start + TAG_SIZE * TAGS_IN_BLOCK
    descriptor = os.open(large.path, os.O_RDWR)
    one, other = (os.pread(descriptor, TAG_SIZE, place) for place in (first, second))
    try:
        os.pwrite(descriptor, other, first)
        with (
            open_image(large.path, KEY, large.id) as image,
            pytest.raises(NotGenuineError) as caught,
        ):
            image.read_file("0")
        assert caught.value.code == "image.tags"
        os.pwrite(descriptor, one, second)
        with pytest.raises(NotGenuineError) as caught:
            open_image(large.path, KEY, large.id)  # the table of contents needs the last block
        assert caught.value.code == "image.tags"
    finally:
        os.pwrite(descriptor, one, first)
        os.pwrite(descriptor, other, second)
        os.close(descriptor)


def test_the_table_of_contents_of_another_image_is_an_error(tmp_path: Path) -> None:
    """Same key, same sizes; tags, digests and header made right again."""
    image, other = forged((file("a", varied(3 * CHUNK)),)), forged((file("b", varied(3 * CHUNK)),))
    mixed = replace(
        image,
        sealed=(*image.sealed[:-1], other.sealed[-1]),
        tags=(*image.tags[:-1], other.tags[-1]),
    )
    with pytest.raises(NotGenuineError) as caught:
        open_image(written(tmp_path / "image", mixed), KEY)
    assert caught.value.code == "image.toc-corrupt"


def test_the_header_of_an_older_version_is_refused(tmp_path: Path) -> None:
    """Also where the rest is right: nothing is read as what it once would have been."""
    image = forged((file("a", b"1"),)).with_fields(version=1)
    with pytest.raises(MalformedError) as caught:
        open_image(written(tmp_path / "image", image), KEY)
    assert (caught.value.code, caught.value.got) == ("image.version", "1")
