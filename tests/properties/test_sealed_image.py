"""Parsers give a value or the one error; what they take encodes to the same bytes again."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from casemate.errors import MalformedError, UsageError
from casemate.image.format import (
    MAGIC,
    PAYLOAD_START,
    Header,
    Prologue,
    TocEntry,
    encode_header,
    encode_prologue,
    encode_toc,
    parse_header,
    parse_prologue,
    parse_toc,
)
from casemate.image.keys import encode_key_file, parse_key_file
from casemate.image.payload import lay_out
from casemate.image.reader import open_image
from casemate.image.seal import seal
from casemate.image.tree import EntryKind, TreeEntry, normalised
from casemate.types import Secret, Sha384

headers = st.builds(
    Header,
    salt=st.binary(min_size=32, max_size=32),
    payload_size=st.integers(1024, 1 << 47),
    toc_size=st.integers(4, 1 << 30),
    key_commitment=st.binary(min_size=32, max_size=32),
    tags_digest=st.binary(min_size=48, max_size=48).map(Sha384),
)
names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
xattrs = st.dictionaries(
    names.filter(lambda name: "=" not in name), st.binary(max_size=30), max_size=3
).map(lambda found: tuple(sorted(found.items())))
modes = st.integers(0, 0o7777)
ids = st.integers(0, (1 << 32) - 1)
contents = st.binary(max_size=2000)


@st.composite
def trees(draw: st.DrawFn) -> tuple[TreeEntry, ...]:
    entries: list[TreeEntry] = []
    for path in draw(st.lists(paths, max_size=8, unique=True)):
        kind = draw(st.sampled_from([EntryKind.FILE, EntryKind.DIRECTORY, EntryKind.SYMLINK]))
        content = draw(contents) if kind is EntryKind.FILE else None
        entries.append(
            TreeEntry(
                path=path,
                kind=kind,
                mode=draw(modes),
                uid=draw(ids),
                gid=draw(ids),
                mtime=draw(st.integers(0, (1 << 33) - 1)),
                size=len(content or b""),
                source=content,
                target=draw(names) if kind is EntryKind.SYMLINK else "",
                xattrs=draw(xattrs),
            )
        )
    for entry in tuple(entries):
        link = entry.path + "~"
        if entry.kind is EntryKind.FILE and draw(st.booleans()):
            entries.append(TreeEntry(path=link, kind=EntryKind.HARDLINK, mode=0, target=entry.path))
    return tuple(entries)


@given(headers)
def test_headers_come_back(header: Header) -> None:
    assert parse_header(encode_header(header)) == header


@given(st.binary(max_size=400) | headers.map(encode_header), st.data())
def test_any_bytes_are_a_header_or_malformed(data: bytes, more: st.DataObject) -> None:
    changed = bytearray(data)
    for _ in range(more.draw(st.integers(0, 2))):
        if changed:
            changed[more.draw(st.integers(0, len(changed) - 1))] = more.draw(st.integers(0, 255))
    try:
        header = parse_header(bytes(changed))
    except MalformedError:
        return
    assert encode_header(header) == changed


@given(
    st.binary(max_size=200)
    | st.binary(max_size=200).map(lambda rest: MAGIC + rest)
    | st.binary(min_size=1, max_size=2048).map(
        lambda header: encode_prologue(Prologue(header=header, slot=bytes(40)))
    )
)
def test_any_bytes_are_a_prologue_or_malformed(data: bytes) -> None:
    try:
        prologue = parse_prologue(data)
    except MalformedError:
        return
    assert encode_prologue(prologue) == data
    assert len(data) == PAYLOAD_START


@given(trees())
def test_tables_of_contents_come_back(tree: tuple[TreeEntry, ...]) -> None:
    try:
        layout = lay_out(normalised(tree))
    except UsageError:
        return
    contents = layout.toc()
    assert parse_toc(encode_toc(contents), payload_size=layout.size) == contents


@given(
    st.binary(max_size=300)
    | st.tuples(st.integers(0, 4), st.binary(max_size=400)).map(
        lambda pair: pair[0].to_bytes(4, "big") + pair[1]
    ),
)
def test_any_bytes_are_a_table_of_contents_or_malformed(data: bytes) -> None:
    check_toc(data)


@given(trees(), st.data())
def test_a_changed_table_of_contents_is_another_or_malformed(
    tree: tuple[TreeEntry, ...], more: st.DataObject
) -> None:
    try:
        data = bytearray(encode_toc(lay_out(normalised(tree)).toc()))
    except UsageError:
        return
    data[more.draw(st.integers(0, len(data) - 1))] = more.draw(st.integers(0, 255))
    check_toc(bytes(data))


def check_toc(data: bytes) -> None:
    try:
        entries = parse_toc(data, payload_size=1 << 20)
    except MalformedError:
        return
    assert encode_toc(entries) == data
    for entry in entries:
        assert_plain(entry)


def assert_plain(entry: TocEntry) -> None:
    assert not entry.path.startswith("/")
    assert not {"", ".", ".."} & set(entry.path.split("/"))
    assert 0 <= entry.offset + entry.size <= 1 << 20


@given(st.binary(max_size=100) | st.text("0123456789abcdef-\n", max_size=100).map(str.encode))
def test_any_bytes_are_a_key_file_or_malformed(data: bytes) -> None:
    try:
        key = parse_key_file(data)
    except MalformedError:
        return
    assert encode_key_file(key).reveal() == data


@given(st.sampled_from([16, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size)))
def test_keys_come_back(key: bytes) -> None:
    assert parse_key_file(encode_key_file(Secret(key)).reveal()) == Secret(key)


@settings(max_examples=25, deadline=None)
@given(trees(), st.integers(1, 3))
def test_trees_come_back(tree: tuple[TreeEntry, ...], threads: int) -> None:
    key = Secret(bytes(32))
    with tempfile.TemporaryDirectory() as folder:
        try:
            info = seal(tree, key, Path(folder, "image"), threads=threads)
        except UsageError:
            return
        with open_image(info.path, key, info.id) as image:
            image.verify_all(threads=threads)
            for entry in tree:
                found = image.entry(entry.path)
                assert (found.kind, found.mode, found.uid, found.gid, found.mtime) == (
                    entry.kind, entry.mode, entry.uid, entry.gid, entry.mtime,
                )  # fmt: skip
                assert (found.target, found.xattrs) == (entry.target, entry.xattrs)
                if isinstance(entry.source, bytes):
                    assert image.read_file(found) == entry.source
