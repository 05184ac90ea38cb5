"""Seal a tree: two passes over it (digest, then encrypt), one new file, written atomically."""

from __future__ import annotations

import hmac
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from casemate.errors import UsageError
from casemate.image.format import (
    CHUNK_SIZE,
    PAYLOAD_START,
    TAG_SIZE,
    Header,
    Prologue,
    block_digests,
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
from casemate.image.payload import Layout, PayloadReader, changed, lay_out
from casemate.image.tree import TreeEntry, normalised
from casemate.image.workers import Meter, Progress, Step, run_steps
from casemate.types import Secret, Sha384, sha256, sha384

_DIGEST = TAG_SIZE
_RUN = 4  # chunks that are filled and written at once


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
    layout = lay_out(normalised(entries))
    plain = _Plaintext(layout, encode_toc(layout.toc()))
    meter = Meter(2 * plain.size, progress)
    # 2. First pass: a keyed digest of every chunk, and the content key that follows from them.
    digests = bytearray(_DIGEST * plain.chunks)
    digester = AESGCM(digest_key(key).reveal())
    run_steps(plain.runs, threads, meter, lambda: plain.digest_worker(digester, digests))
    content = derive_content_key(
        key,
        content_digest=sha256(bytes(digests)),
        payload_size=layout.size,
        toc_size=len(plain.toc),
    )
    # 3. Second pass: encrypt, each chunk only if it still has its digest. Else one nonce would
    #    meet two plaintexts.
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(destination) as descriptor:
            header = _encrypt(plain, content, digester, digests, descriptor, meter, threads)
            encoded = encode_header(header)
            prologue = Prologue(header=encoded, slot=wrap_content_key(content, key))
            _write_all(descriptor, encode_prologue(prologue), 0)
    except OSError as error:
        raise UsageError(
            "image.unwritable",
            f"{destination} can't be written",
            field=str(destination),
            got=str(error),
            remedy="Check the folder, its permissions, and the space left on the disk.",
        ) from error
    return SealedImageInfo(
        path=destination,
        id=sha384(encoded),
        payload_size=layout.size,
        file_size=header.file_size,
        entries=len(layout.entries),
    )


def _encrypt(
    plain: _Plaintext,
    content: ContentKey,
    digester: AESGCM,
    digests: bytearray,
    descriptor: int,
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
        lambda: plain.encrypt_worker(cipher, data, digester, digests, tags, descriptor),
    )
    table = block_digests(tags)
    _write_all(descriptor, tags + table, PAYLOAD_START + plain.size)
    return Header(
        salt=content.salt,
        key_commitment=content.commitment,
        tags_digest=sha384(table),
        **sizes,
    )


class _Run(NamedTuple):
    """Chunks in a row: the first one's number, its place after the prologue, their bytes."""

    first: int
    start: int
    data: memoryview

    def chunks(self) -> Iterator[tuple[int, int, memoryview]]:
        """Each chunk's number, its place in the run, and its bytes."""
        for number, at in enumerate(range(0, len(self.data), CHUNK_SIZE)):
            yield self.first + number, at, self.data[at : at + CHUNK_SIZE]


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

    def fill(self, reader: PayloadReader, number: int, buffer: memoryview) -> _Run:
        """Some chunks in the front part of ``buffer``; the last of all may be short."""
        if number < self._payload_runs:
            start = number * _RUN * CHUNK_SIZE
            data = buffer[: self.layout.size - start]
            reader.fill(data, start)
            return _Run(number * _RUN, start, data)
        start = (number - self._payload_runs) * _RUN * CHUNK_SIZE
        piece = self.toc[start : start + len(buffer)]
        data = buffer[: len(piece)]
        data[:] = piece
        first = self.payload_chunks + (number - self._payload_runs) * _RUN
        return _Run(first, self.layout.size + start, data)

    @contextmanager
    def digest_worker(self, digester: AESGCM, digests: bytearray) -> Iterator[Step]:
        """Steps that put chunks' digests into ``digests``."""
        buffer = memoryview(bytearray(_RUN * CHUNK_SIZE))
        into = memoryview(digests)
        with PayloadReader(self.layout) as reader:

            def step(number: int) -> int:
                run = self.fill(reader, number, buffer)
                for index, _, chunk in run.chunks():
                    place = into[_DIGEST * index : _DIGEST * (index + 1)]
                    digester.encrypt_into(_nonce(index), b"", chunk, place)
                return len(run.data)

            yield step

    @contextmanager
    def encrypt_worker(
        self,
        cipher: AESGCM,
        data: bytes,
        digester: AESGCM,
        digests: bytearray,
        tags: bytearray,
        descriptor: int,
    ) -> Iterator[Step]:
        """Steps that encrypt chunks into the file and put their tags into ``tags``."""
        buffer = memoryview(bytearray(_RUN * CHUNK_SIZE))
        sealed = memoryview(bytearray(_RUN * CHUNK_SIZE + TAG_SIZE))
        digest = memoryview(bytearray(_DIGEST))
        with PayloadReader(self.layout) as reader:

            def step(number: int) -> int:
                run = self.fill(reader, number, buffer)
                for index, at, chunk in run.chunks():
                    digester.encrypt_into(_nonce(index), b"", chunk, digest)
                    known = digests[_DIGEST * index : _DIGEST * (index + 1)]
                    if not hmac.compare_digest(digest, known):
                        raise changed(self._entry_at(run.start + at))
                    end = at + len(chunk)
                    # The next chunk's bytes go where this one's tag is now.
                    cipher.encrypt_into(_nonce(index), chunk, data, sealed[at : end + TAG_SIZE])
                    tags[TAG_SIZE * index : TAG_SIZE * (index + 1)] = sealed[end : end + TAG_SIZE]
                _write_all(descriptor, sealed[: len(run.data)], PAYLOAD_START + run.start)
                return len(run.data)

            yield step

    def _entry_at(self, start: int) -> str:
        names = [
            entry.path
            for entry, content in zip(self.layout.entries, self.layout.contents, strict=True)
            if content < start + CHUNK_SIZE and content + entry.size > start and entry.size
        ]
        return f"{names[0]} (or one of {len(names) - 1} files after it)" if names else "the tree"


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")


@contextmanager
def _new_file(destination: Path) -> Iterator[int]:
    """A new file that gets its name only when it is whole and on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=f".{destination.name}.", dir=destination.parent)
    temporary = Path(name)
    try:
        try:
            yield descriptor
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(destination)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(destination.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_all(descriptor: int, data: bytes | bytearray | memoryview, position: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
