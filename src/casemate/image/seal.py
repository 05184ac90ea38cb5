"""Seal a tree: two passes over it (digest, then encrypt), one new file, written atomically."""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat, starmap
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from casemate.errors import UsageError
from casemate.image.buffers import page_buffer, slots
from casemate.image.format import (
    BLOCK_DIGEST_SIZE,
    CHUNK_SIZE,
    PAYLOAD_START,
    TAG_SIZE,
    TAGS_IN_BLOCK,
    Header,
    Prologue,
    block_digests,
    chunk_nonces,
    encode_header,
    encode_prologue,
    encode_toc,
)
from casemate.image.keys import (
    ContentKey,
    derive_content_key,
    digest_key,
    wrap_content_key,
)
from casemate.image.output import Output
from casemate.image.payload import Layout, PayloadReader, changed, lay_out
from casemate.image.tree import TreeEntry, normalised
from casemate.image.workers import Meter, Progress, Step, run_steps
from casemate.image.writing import writing
from casemate.types import Secret, Sha384, sha256, sha384

_DIGEST = TAG_SIZE
_DESCRIPTORS = "/proc/self/fd"
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_RUN = 16  # chunks that are read, and written, by one call


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedImageInfo:
    """What came of sealing.

    Args:
        path: the image file.
        id: SHA-384 of its header; pins every byte.
        payload_size: of the tar archive inside, in bytes.
        file_size: of the image file, in bytes.
        entries: how many entries the tree has.
    """

    path: Path
    id: Sha384
    payload_size: int
    file_size: int
    entries: int


def seal(
    entries: Iterable[TreeEntry],
    key: Secret,
    destination: Path,
    *,
    progress: Progress | None = None,
    threads: int = 2,
) -> SealedImageInfo:
    """Seal a tree into one encrypted, authenticated file.

    The same tree under the same key gives the same file. Memory in use is a few chunks, and some
    hundred bytes an entry, whatever the tree's size. An existing ``destination`` is replaced in
    one step when everything is written; until then nothing has that name.

    Args:
        entries: the tree, in any order.
        key: the image key, 16 or 32 bytes.
        destination: the file to write.
        progress: called with (bytes done, bytes to do); each byte of the payload counts twice.
        threads: how many to use.

    Returns:
        The image's id and sizes.

    Raises:
        UsageError: ``image.tree`` for a tree that can't be sealed, ``image.changed-while-sealing``
            where its content changed between the passes, ``image.unwritable``.

    Source: specs/sealed-image.md, "Sealing".
    """
    # 1. The tree's one order and form; every byte's place; the table of contents.
    _require_no_device(destination)
    layout = lay_out(normalised(entries))
    plain = _Plaintext(layout, encode_toc(layout.toc()))
    with writing(destination):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(destination) as descriptor:
            output = Output(descriptor, plain.file_size)
            header = _seal_into(output, plain, key, Meter(2 * plain.size, progress), threads)
    return SealedImageInfo(
        path=destination,
        id=sha384(encode_header(header)),
        payload_size=layout.size,
        file_size=header.file_size,
        entries=len(layout.entries),
    )


def _require_no_device(destination: Path) -> None:
    """The image would take the name of ``/dev/null`` away from it, as of any other file."""
    try:
        mode = destination.lstat().st_mode
    except OSError:  # nothing is there; or making a file will tell
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise UsageError(
            "image.unwritable",
            f"{destination} can't be replaced by an image",
            field=str(destination),
            expected="a file, or a name that is free",
            got="a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket",
            remedy="Name a file: an image is written to one, and then read from there.",
        )


def _seal_into(
    output: Output, plain: _Plaintext, key: Secret, meter: Meter, threads: int
) -> Header:
    # 2. First pass: a keyed digest of every chunk, and the content key that follows from them.
    #    Meanwhile the file gets its room.
    digests = bytearray(_DIGEST * plain.chunks)
    digester = AESGCM(digest_key(key).reveal())
    run_steps(plain.runs, threads, meter, lambda: plain.digest_worker(digester, digests, output))
    output.make_room()
    content = derive_content_key(
        key,
        content_digest=sha256(bytes(digests)),
        payload_size=plain.layout.size,
        toc_size=len(plain.toc),
    )
    # 3. Second pass: encrypt, each chunk only if it still has its digest. Else one nonce would
    #    meet two plaintexts.
    header = _encrypt(plain, content, digester, bytes(digests), output, meter, threads)
    # 4. What opens it.
    prologue = Prologue(header=encode_header(header), slot=wrap_content_key(content, key))
    output.write([memoryview(encode_prologue(prologue))], 0)
    return header


def _encrypt(
    plain: _Plaintext,
    content: ContentKey,
    digester: AESGCM,
    digests: bytes,
    output: Output,
    meter: Meter,
    threads: int,
) -> Header:
    tags = bytearray(TAG_SIZE * plain.chunks)
    sizes = {"payload_size": plain.layout.size, "toc_size": len(plain.toc)}
    data = content.associated_data(**sizes)
    cipher = AESGCM(content.value.reveal())
    run_steps(
        plain.runs,
        threads,
        meter,
        lambda: plain.encrypt_worker(cipher, data, digester, digests, tags, output),
    )
    table = block_digests(tags)
    output.write([memoryview(tags), memoryview(table)], PAYLOAD_START + plain.size)
    return Header(
        salt=content.salt,
        key_commitment=content.commitment,
        tags_digest=sha384(table),
        **sizes,
    )


class _Run(NamedTuple):
    """Chunks in a row: the first one's number, its place after the prologue, their size, each."""

    first: int
    start: int
    size: int
    chunks: list[memoryview]

    def nonces(self) -> Iterator[bytes]:
        """Each chunk's."""
        return chunk_nonces(self.first, len(self.chunks))

    def of(self, table: bytearray | bytes | memoryview) -> memoryview:
        """What these chunks have in a table of 16 bytes for each chunk."""
        return memoryview(table)[TAG_SIZE * self.first :][: TAG_SIZE * len(self.chunks)]


class _Plaintext:
    """Payload and table of contents as one row of chunks; neither shares one with the other."""

    def __init__(self, layout: Layout, toc: bytes) -> None:
        self.layout = layout
        self.toc = toc
        self.size = layout.size + len(toc)
        self.payload_chunks = -(-layout.size // CHUNK_SIZE)
        self.chunks = self.payload_chunks + -(-len(toc) // CHUNK_SIZE)
        self._payload_runs = -(-self.payload_chunks // _RUN)
        self.runs = self._payload_runs + -(-(self.chunks - self.payload_chunks) // _RUN)
        tables = TAG_SIZE * self.chunks + BLOCK_DIGEST_SIZE * -(-self.chunks // TAGS_IN_BLOCK)
        self.file_size = PAYLOAD_START + self.size + tables

    def fill(self, reader: PayloadReader, number: int, buffer: memoryview) -> _Run:
        """Some chunks in the front part of ``buffer``; the last of all may be short."""
        if number < self._payload_runs:
            first, start = number * _RUN, number * _RUN * CHUNK_SIZE
            data = buffer[: self.layout.size - start]
            reader.fill(data, start)
        else:
            start = (number - self._payload_runs) * _RUN * CHUNK_SIZE
            piece = self.toc[start : start + len(buffer)]
            data = buffer[: len(piece)]
            data[:] = piece
            first = self.payload_chunks + (number - self._payload_runs) * _RUN
            start += self.layout.size
        chunks = [data[at : at + CHUNK_SIZE] for at in range(0, len(data), CHUNK_SIZE)]
        return _Run(first, start, len(data), chunks)

    @contextmanager
    def digest_worker(self, digester: AESGCM, digests: bytearray, output: Output) -> Iterator[Step]:
        """Steps that put chunks' digests into ``digests``."""
        buffer = page_buffer(_RUN * CHUNK_SIZE)
        places = slots(_RUN, _DIGEST)
        with PayloadReader(self.layout) as reader:

            def step(number: int) -> int:
                output.make_room()
                run = self.fill(reader, number, buffer)
                run.of(digests)[:] = _digests(digester, run, places)
                return run.size

            yield step

    @contextmanager
    def encrypt_worker(
        self,
        cipher: AESGCM,
        data: bytes,
        digester: AESGCM,
        digests: bytes,
        tags: bytearray,
        output: Output,
    ) -> Iterator[Step]:
        """Steps that encrypt chunks into the file and put their tags into ``tags``."""
        buffer = page_buffer(_RUN * CHUNK_SIZE)
        places = slots(_RUN, _DIGEST)
        room = slots(_RUN, CHUNK_SIZE + TAG_SIZE)  # each chunk's tag comes to lie behind it
        with PayloadReader(self.layout) as reader:

            def step(number: int) -> int:
                run = self.fill(reader, number, buffer)
                known = run.of(digests)
                found = _digests(digester, run, places)
                if not hmac.compare_digest(found, known):
                    raise changed(self._entry_at(run, found, known))
                # Everything from here on is of the very bytes that were just compared: they're in
                # memory that nobody else has.
                sealed = [
                    each[: len(chunk) + TAG_SIZE]
                    for each, chunk in zip(room, run.chunks, strict=False)
                ]
                bound = repeat(data, len(sealed))
                parts = zip(run.nonces(), run.chunks, bound, sealed, strict=True)
                deque(starmap(cipher.encrypt_into, parts), 0)
                run.of(tags)[:] = b"".join([each[-TAG_SIZE:] for each in sealed])
                output.write([each[:-TAG_SIZE] for each in sealed], PAYLOAD_START + run.start)
                return run.size

            yield step

    def _entry_at(self, run: _Run, found: bytes, known: memoryview) -> str:
        pairs = zip(_each(found), _each(known), strict=True)
        place = next(place for place, (one, other) in enumerate(pairs) if one != other)
        start = run.start + place * CHUNK_SIZE
        names = [
            entry.path
            for entry, content in zip(self.layout.entries, self.layout.contents, strict=True)
            if content < start + CHUNK_SIZE and content + entry.size > start and entry.size
        ]
        others = f" (or one of {len(names) - 1} files after it)" if names[1:] else ""
        return f"{names[0]}{others}" if names else "the tree"


def _each(table: bytes | memoryview) -> list[bytes]:
    return [bytes(table[at : at + _DIGEST]) for at in range(0, len(table), _DIGEST)]


def _digests(digester: AESGCM, run: _Run, places: list[memoryview]) -> bytes:
    # The loop is starmap's: each of Python's steps is one that other threads wait for.
    count = len(run.chunks)
    parts = zip(run.nonces(), repeat(b"", count), run.chunks, places[:count], strict=True)
    deque(starmap(digester.encrypt_into, parts), 0)
    return b"".join(places[:count])


@contextmanager
def _new_file(destination: Path) -> Iterator[int]:
    """A new file that gets its name only when it is whole and on the disk.

    Until then it has none, where the file system can do that: nothing is left of it if this process
    is killed. Elsewhere it has another name until then.
    """
    folder = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    # The random part as `tempfile` has it; names have a limit, which the destination's may reach.
    beside = f".{destination.name[:40]}.{secrets.token_hex(4)}"
    try:
        descriptor = _nameless(folder)
        nameless = descriptor is not None
        if descriptor is None:
            descriptor = os.open(beside, _NEW, 0o600, dir_fd=folder)
        try:
            yield descriptor
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
            if nameless:  # a folder, too, so that linkat(2) is called, which follows /proc's link
                os.link(
                    f"{_DESCRIPTORS}/{descriptor}", beside, src_dir_fd=folder, dst_dir_fd=folder
                )
            os.replace(beside, destination.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=folder)
            raise
        finally:
            os.close(descriptor)
        os.fsync(folder)
    finally:
        os.close(folder)


def _nameless(folder: int) -> int | None:
    """A new file without a name, in an open folder; None where one couldn't be named later."""
    if not Path(_DESCRIPTORS).is_dir():
        return None
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            return None  # another file system, or kernel
        raise
