"""The host changes, cuts, reorders, exchanges or rolls back a sealed image (threat model, P11).

It holds the file, knows the format, and can compute every digest that needs no key.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.forged_images import Forged, cbor, forge, record, toc
from tests.support.trees import CHUNK, KEY, OTHER_KEY, file, symlink, varied

from casemate.errors import CasemateError, MalformedError, NotGenuineError
from casemate.image.extract import extract
from casemate.image.format import PAYLOAD_START, TAG_SIZE, encode_toc
from casemate.image.payload import PayloadReader, lay_out
from casemate.image.reader import open_image, rewrapped_slot
from casemate.image.seal import seal
from casemate.image.tree import TreeEntry, normalised
from casemate.types import Sha384

TREE = (file("a", varied(700)), symlink("l", "a"))
LARGE = (file("a", varied(3 * CHUNK)),)


def forged(tree: tuple[TreeEntry, ...]) -> Forged:
    """The image of a tree, in parts that the host can move about."""
    layout = lay_out(normalised(tree))
    payload = bytearray(layout.size)
    with PayloadReader(layout) as reader:
        reader.fill(memoryview(payload), 0)
    return forge(bytes(payload), encode_toc(layout.toc()), KEY.reveal())


def read_everything(path: Path, expected_id: Sha384 | None = None) -> dict[str, bytes]:
    with open_image(path, KEY, expected_id) as image:
        image.verify_all(threads=1)
        return {entry.path: image.read_file(entry) for entry in image if entry.size}


def refused(path: Path, expected_id: Sha384 | None = None) -> str:
    with pytest.raises((NotGenuineError, MalformedError)) as caught:
        read_everything(path, expected_id)
    assert str(path) in caught.value.message, "an error names the image"
    return caught.value.code


def written(path: Path, image: Forged) -> Path:
    path.write_bytes(image.to_bytes())
    return path


@pytest.mark.parametrize("told", [True, False], ids=["id expected", "no id expected"])
def test_flipping_any_byte_is_an_error(tmp_path: Path, told: bool) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    whole = info.path.read_bytes()
    expected = info.id if told else None
    truth = read_everything(info.path, expected)
    with info.path.open("r+b", buffering=0) as host:
        for position, byte in enumerate(whole):
            os.pwrite(host.fileno(), bytes([byte ^ 1 << position % 8]), position)
            with pytest.raises((NotGenuineError, MalformedError)):
                read_everything(info.path, expected)
            os.pwrite(host.fileno(), bytes([byte]), position)
    assert info.path.read_bytes() == whole
    assert read_everything(info.path, expected) == truth


def test_cutting_the_file_anywhere_is_an_error(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    for length in reversed(range(info.path.stat().st_size)):
        os.truncate(info.path, length)
        with pytest.raises((NotGenuineError, MalformedError)):
            open_image(info.path, KEY)


def test_appending_to_the_file_is_an_error(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with info.path.open("ab") as image:
        image.write(b"\0")
    assert refused(info.path) == "image.size"


def test_swapping_chunks_is_an_error(tmp_path: Path) -> None:
    image = forged(LARGE)
    one, two, *rest = image.sealed
    swapped = written(tmp_path / "image", replace(image, sealed=(two, one, *rest)))
    assert refused(swapped) == "image.chunk-corrupt"


def test_swapping_chunks_with_their_tags_is_an_error(tmp_path: Path) -> None:
    """The host makes the table's digest right again; only the nonce tells the place."""
    image = forged(LARGE)
    (one, two, *rest), (tag, other, *tags) = image.sealed, image.tags
    swapped = replace(image, sealed=(two, one, *rest), tags=(other, tag, *tags))
    assert refused(written(tmp_path / "image", swapped)) == "image.chunk-corrupt"
    assert refused(tmp_path / "image", Sha384(bytes.fromhex(image.id()))) == "image.id"


def test_a_chunk_of_another_image_under_the_same_key_is_an_error(tmp_path: Path) -> None:
    image, other = forged(LARGE), forged((file("a", varied(3 * CHUNK, 7)),))
    mixed = replace(
        image,
        sealed=(other.sealed[0], *image.sealed[1:]),
        tags=(other.tags[0], *image.tags[1:]),
    )
    assert refused(written(tmp_path / "image", mixed)) == "image.chunk-corrupt"


def test_dropping_a_chunk_and_mending_the_header_is_an_error(tmp_path: Path) -> None:
    image = forged(LARGE)
    dropped = replace(image, sealed=image.sealed[1:], tags=image.tags[1:])
    size = int(str(image.fields["payload-size"])) - CHUNK
    mended = dropped.with_fields(payload_size=size)
    assert refused(written(tmp_path / "image", mended)) == "image.toc-corrupt"


def test_an_older_image_under_the_same_key_is_refused_by_id(tmp_path: Path) -> None:
    older = seal([file("a", b"vulnerable")], KEY, tmp_path / "older")
    newer = seal([file("a", b"mended")], KEY, tmp_path / "newer")
    older.path.replace(newer.path)
    assert refused(newer.path, newer.id) == "image.id"
    assert read_everything(newer.path) == {"a": b"vulnerable"}, "the id alone makes the difference"


def test_a_wrong_key_is_an_error(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    with pytest.raises(NotGenuineError) as caught:
        open_image(info.path, OTHER_KEY, info.id)
    assert caught.value.code == "image.wrong-key"


def test_a_slot_with_another_content_key_is_an_error(tmp_path: Path) -> None:
    """AES-GCM doesn't commit to its key: without the commitment this would be tried as a key."""
    image = forged(TREE)
    salt = image.fields["salt"]
    assert isinstance(salt, bytes)
    other = forge(b"\0" * 1024, toc(), KEY.reveal(), content_key=bytes(32))
    changed = replace(image, slot=other.slot)
    assert refused(written(tmp_path / "image", changed)) == "image.wrong-key"
    from cryptography.hazmat.primitives.keywrap import aes_key_wrap
    from tests.support.forged_images import hkdf

    slot = aes_key_wrap(hkdf(KEY.reveal(), salt, b"slot"), bytes(32))
    changed = replace(image, slot=slot)
    assert refused(written(tmp_path / "image", changed)) == "image.key-commitment"


def test_a_slot_rewrapped_for_another_key_opens_the_same_image(tmp_path: Path) -> None:
    info = seal(TREE, KEY, tmp_path / "image")
    slot = rewrapped_slot(info.path, KEY, OTHER_KEY)
    with open_image(info.path, OTHER_KEY, info.id, slot=slot) as image:
        assert image.read_file("a") == varied(700)
    with pytest.raises(NotGenuineError, match="doesn't open"):
        open_image(info.path, KEY, info.id, slot=slot)


@pytest.mark.parametrize(
    "where", ["the middle of a chunk", "a chunk's border", "the start of the payload"]
)
def test_cutting_the_file_while_it_is_open_is_an_error(tmp_path: Path, where: str) -> None:
    info = seal(LARGE, KEY, tmp_path / "image")
    length = {"the middle of a chunk": CHUNK + 999, "a chunk's border": CHUNK}.get(where, 0)
    with open_image(info.path, KEY, info.id) as image:
        os.truncate(info.path, PAYLOAD_START + length)
        with pytest.raises(NotGenuineError) as caught:
            image.read_file("a")
    assert caught.value.code == "image.truncated"
    assert caught.value.field == f"chunk {length // CHUNK}"


def test_changing_the_file_while_it_is_open_is_an_error(tmp_path: Path) -> None:
    info = seal(LARGE, KEY, tmp_path / "image")
    with open_image(info.path, KEY, info.id) as image:
        with info.path.open("r+b") as host:
            host.seek(PAYLOAD_START + 2 * CHUNK)
            host.write(b"changed")
        assert image.read_file("a", 0, CHUNK) == varied(3 * CHUNK)[:CHUNK]
        with pytest.raises(NotGenuineError) as caught:
            image.read_file("a")
    assert caught.value.field == "chunk 2"
    assert str(info.path) in caught.value.message


def test_replacing_the_file_while_it_is_open_changes_nothing(tmp_path: Path) -> None:
    info = seal(LARGE, KEY, tmp_path / "image")
    other = seal([file("a", b"other")], KEY, tmp_path / "other")
    with open_image(info.path, KEY, info.id) as image:
        other.path.replace(info.path)
        assert image.read_file("a") == varied(3 * CHUNK)


def test_extraction_of_a_changed_image_leaves_nothing_behind(tmp_path: Path) -> None:
    info = seal((file("0", b"fine"), *LARGE), KEY, tmp_path / "image")
    with info.path.open("r+b") as host:
        host.seek(PAYLOAD_START + 2 * CHUNK)
        host.write(b"changed")
    with open_image(info.path, KEY, info.id) as image, pytest.raises(NotGenuineError):
        extract(image, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The rest needs the image key: a sealer who means harm, or an image from somebody else.

PAYLOAD = bytes(4096)
ESCAPES = {
    "absolute path": [record(b"/etc/passwd", 0, offset=512)],
    "parent": [record(b"..", 1)],
    "path upwards": [record(b"a", 1), record(b"a/../../b", 0, offset=512)],
    "dot": [record(b"./a", 0, offset=512)],
    "double slash": [record(b"a", 1), record(b"a//b", 0, offset=512)],
    "trailing slash": [record(b"a/", 1)],
    "NUL": [record(b"a\0b", 0, offset=512)],
    "empty path": [record(b"", 1)],
    "not UTF-8": [record(b"\xff", 0, offset=512)],
    "name too long": [record(b"a" * 256, 0, offset=512)],
    "the same path twice": [record(b"a", 2, target=b"/etc"), record(b"a", 0, offset=512)],
    "through a symbolic link": [record(b"a", 2, target=b"/etc"), record(b"a/b", 0, offset=512)],
    "through a file": [record(b"a", 0, offset=512), record(b"a/b", 0, offset=1024)],
    "without its directory": [record(b"a/b", 0, offset=512)],
    "hard link to a path outside": [record(b"a", 3, target=b"/etc/shadow")],
    "hard link to a symbolic link": [record(b"a", 2, target=b"/x"), record(b"b", 3, target=b"a")],
    "hard link to what comes later": [record(b"a", 3, target=b"b"), record(b"b", 0, offset=512)],
    "a device": [record(b"a", 4)],
    "content beyond the payload": [record(b"a", 0, offset=512, size=5000)],
    "content at a huge offset": [record(b"a", 0, offset=1 << 63, size=1 << 63)],
    "content that overlaps": [
        record(b"a", 0, offset=512, size=1000),
        record(b"b", 0, offset=1024, size=1000),
    ],
    "a directory with content": [record(b"a", 1, offset=512, size=9)],
    "an empty link": [record(b"a", 2)],
    "a file with a target": [record(b"a", 0, offset=512, target=b"x")],
    "mode out of range": [record(b"a", 1, mode=0o100644)],
    "time out of range": [record(b"a", 1, mtime=1 << 33)],
    "a reserved byte": [record(b"a", 1, reserved=1)],
    "an empty attribute map": [record(b"a", 1, xattrs=cbor({}))],
    "attributes that aren't bytes": [record(b"a", 1, xattrs=cbor({"user.a": 1}))],
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_hostile_table_of_contents_is_refused(tmp_path: Path, name: str) -> None:
    image = written(tmp_path / "image", forge(PAYLOAD, toc(*ESCAPES[name]), KEY.reveal()))
    with pytest.raises(MalformedError) as caught:
        open_image(image, KEY)
    assert caught.value.code == "image.toc" or caught.value.code.startswith("encoding.")


@pytest.mark.parametrize(
    "change",
    [lambda t: t + b"\0", lambda t: t[:-1], lambda t: b"\xff\xff\xff\xff" + t[4:]],
    ids=["bytes after the end", "cut", "a count that lies"],
)
def test_a_table_of_contents_of_the_wrong_length_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    contents = change(toc(record(b"a", 0, offset=512)))
    image = written(tmp_path / "image", forge(PAYLOAD, contents, KEY.reveal()))
    with pytest.raises(MalformedError):
        open_image(image, KEY)


def test_an_archive_that_says_other_than_the_table_is_found_by_verifying(tmp_path: Path) -> None:
    """A tar header that names another path than the table: two readers would see two trees."""
    layout = lay_out(normalised(TREE))
    payload = bytearray(layout.size)
    with PayloadReader(layout) as reader:
        reader.fill(memoryview(payload), 0)
    contents = encode_toc(layout.toc())
    for position in (0, 600 + 700, len(payload) - 1):  # name, padding, end mark
        changed = bytearray(payload)
        changed[position] ^= 1
        image = written(tmp_path / "image", forge(bytes(changed), contents, KEY.reveal()))
        assert refused(image) == "image.frame"
    longer = forge(bytes(payload) + bytes(512), contents, KEY.reveal())
    assert refused(written(tmp_path / "image", longer)) == "image.frame"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 1}, "image.version"),
        ({"version": 3}, "image.version"),
        ({"cipher": "none"}, "image.version"),
        ({"chunk_size": 16}, "image.version"),
        ({"salt": bytes(31)}, "image.header"),
        ({"key_commitment": b""}, "image.header"),
        ({"payload_size": 1 << 60}, "image.header"),
        ({"payload_size": -1}, "image.header"),
        ({"payload_size": True}, "encoding.field"),
        ({"toc_size": 0}, "image.header"),
        ({"toc_size": 1 << 40}, "image.header"),
        ({"comment": "x"}, "encoding.unknown-field"),
        ({"payload_size": 1 << 40}, "image.size"),
    ],
)
def test_a_header_out_of_range_is_refused_before_memory_is_taken(
    tmp_path: Path, change: dict[str, object], code: str
) -> None:
    image = forged(TREE).with_fields(**change)
    assert refused(written(tmp_path / "image", image)) == code


def test_a_header_in_another_encoding_is_refused(tmp_path: Path) -> None:
    image = forged(TREE)
    header = image.header_bytes()
    for other in (header + b"\0", header[:-1], b"\xbf" + header[1:] + b"\xff", b"\x80"):
        assert refused(written(tmp_path / "image", replace(image, header=other))).startswith(
            "encoding."
        )


def test_bytes_hidden_in_the_padding_are_refused(tmp_path: Path) -> None:
    image = written(tmp_path / "image", replace(forged(TREE), padding=b"hidden"))
    assert refused(image) == "encoding.unexpected"


def test_no_error_holds_a_key_or_content(tmp_path: Path) -> None:
    info = seal([file("a", b"canary-content" * 50)], KEY, tmp_path / "image")
    whole = info.path.read_bytes()
    secrets = (KEY.reveal().hex(), repr(KEY.reveal())[2:-1], "canary")
    for position in (0, 9, 20, 300, 4096, len(whole) - TAG_SIZE - 1, len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        info.path.write_bytes(changed)
        with pytest.raises(CasemateError) as caught:
            read_everything(info.path, info.id)
        told = f"{caught.value} {caught.value.as_dict()} {caught.value.__cause__!r}"
        assert not any(secret in told for secret in secrets)
