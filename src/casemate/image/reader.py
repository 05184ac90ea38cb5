"""Open a sealed image and read from it at random: the right bytes, or an error, never others."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat, starmap
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from casemate.errors import (
    CasemateError,
    MalformedError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)
from casemate.image.buffers import page_buffer, slots
from casemate.image.file import ImageFile
from casemate.image.format import (
    CHUNK_SIZE,
    TAG_SIZE,
    Header,
    TocEntry,
    chunk_nonces,
    parse_toc,
)
from casemate.image.keys import ContentKey, unwrap_content_key, wrap_content_key
from casemate.image.payload import Layout, check_frame, lay_out, tree_entry
from casemate.image.tree import EntryKind
from casemate.image.workers import Meter, Progress, Step, run_steps
from casemate.types import Secret, Sha384

_CACHED_CHUNKS = 64
_RUN = 16  # chunks that one system call reads


class _Room:
    """A thread's room for sealed chunks, each with its tag behind it."""

    def __init__(self) -> None:
        self.sealed = slots(_RUN, CHUNK_SIZE + TAG_SIZE)
        self.texts = [each[:-TAG_SIZE] for each in self.sealed]


class SealedImage:
    """An open sealed image. Any number of threads may read from one. A context manager.

    Made by :func:`open_image`.

    Attributes:
        path: the file.
        id: SHA-384 of its header.
        header: what it says of itself.
        entries: path → entry, in the order of the table of contents.
    """

    def __init__(self, file: ImageFile, content: ContentKey) -> None:
        self.path: Path = file.path
        self.id: Sha384 = file.id
        self.header: Header = file.header
        self._file = file
        self._cipher = AESGCM(content.value.reveal())
        self._data = content.associated_data(
            payload_size=file.header.payload_size, toc_size=file.header.toc_size
        )
        self._scratch = threading.local()
        self._full = file.header.payload_size // CHUNK_SIZE  # so many chunks have their full size
        self._cache: OrderedDict[int, bytearray] = OrderedDict()
        self._cache_lock = threading.Lock()
        entries = parse_toc(self._toc(), payload_size=file.header.payload_size)
        self.entries: Mapping[str, TocEntry] = MappingProxyType({e.path: e for e in entries})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[TocEntry]:
        return iter(self.entries.values())

    def fileno(self) -> int:
        """The descriptor of the image file."""
        return self._file.fileno()

    def renew_locks(self) -> None:
        """In a forked process, forget what threads that weren't forked along held."""
        self._cache_lock = threading.Lock()

    def close(self) -> None:
        """Let go of the file and of decrypted chunks."""
        self._file.close()
        with self._cache_lock:
            self._cache.clear()

    def entry(self, path: str) -> TocEntry:
        """The entry at ``path``; links are not followed.

        Raises:
            UsageError: ``image.no-entry``.
        """
        found = self.entries.get(path)
        if found is None:
            raise UsageError(
                "image.no-entry",
                f"{self.path} has no entry {path}",
                field=path,
                remedy="List what there is with `casemate image ls`.",
            )
        return found

    def content_of(self, entry: TocEntry) -> TocEntry:
        """The file that holds the content of ``entry``: itself, or what a hard link shares."""
        return self.entries[entry.target] if entry.kind is EntryKind.HARDLINK else entry

    def read_file(self, entry: TocEntry | str, offset: int = 0, length: int | None = None) -> bytes:
        """Content of a file.

        Args:
            entry: the file, a hard link to it, or its path.
            offset: where to begin, in bytes; beyond the end gives nothing.
            length: how much, at most; None for all that is left.

        Raises:
            NotGenuineError: ``image.chunk-corrupt``, ``image.truncated``.
            UnavailableError: ``image.unreadable``.
            UsageError: ``image.no-entry``, also for what isn't a file.
        """
        found = self.entry(entry) if isinstance(entry, str) else entry
        size = self.content_of(found).size
        rest = max(size - offset, 0)
        buffer = bytearray(rest if length is None else min(length, rest))
        self.pread_into(found, memoryview(buffer), offset)
        return bytes(buffer)

    def pread_into(self, entry: TocEntry, buffer: memoryview, offset: int) -> int:
        """Read a file's content into ``buffer``, whole chunks decrypted straight into it.

        Args:
            entry: a file, or a hard link to one.
            buffer: where to; as much as fits or is there.
            offset: where in the file to begin, in bytes.

        Returns:
            How many bytes were read: less than asked for only at the file's end.

        Raises:
            NotGenuineError, UnavailableError, UsageError: as :meth:`read_file`. The buffer then
                holds nothing of use.
        """
        held = self.content_of(entry)
        if held.kind is not EntryKind.FILE or offset < 0:
            raise UsageError(
                "image.no-entry",
                f"{entry.path} in {self.path} can't be read from",
                field=entry.path,
                expected="a file, and an offset of 0 or more",
                got=f"a {held.kind.value}, offset {offset}",
            )
        length = max(0, min(len(buffer), held.size - offset))
        self.read_payload_into(buffer[:length], held.offset + offset)
        return length

    def read_payload_into(self, buffer: memoryview, start: int) -> None:
        """Fill ``buffer`` with the payload's bytes from offset ``start`` on, as :meth:`pread_into`.

        Raises:
            NotGenuineError, UnavailableError: as :meth:`read_file`.
        """
        end, position = start + len(buffer), start
        while position < end:
            index, skip = divmod(position, CHUNK_SIZE)
            take = min(CHUNK_SIZE - skip, end - position)
            if not skip and (take == CHUNK_SIZE or end == self.header.payload_size):
                last = end == self.header.payload_size and end % CHUNK_SIZE != 0
                count = min((end - position) // CHUNK_SIZE + last, _RUN)
                take = min(count * CHUNK_SIZE, end - position)
                self._decrypt(index, count, buffer[position - start : position - start + take])
            else:
                target = buffer[position - start : position - start + take]
                target[:] = memoryview(self.chunk(index))[skip : skip + take]
            position += take

    def verify_all(self, *, threads: int = 2, progress: Progress | None = None) -> None:
        """Read everything: every chunk's tag, and that the archive is what the contents say.

        Args:
            threads: how many to use.
            progress: called with (bytes done, bytes to do).

        Raises:
            NotGenuineError: ``image.chunk-corrupt`` or ``image.truncated`` naming the chunk.
            MalformedError: ``image.frame`` where tar archive and table of contents differ, which
                only a holder of the key can bring about.
            UnavailableError: ``image.unreadable``.
        """
        layout = lay_out(tuple(map(tree_entry, self)))
        expected = {e.path: c for e, c in zip(layout.entries, layout.contents, strict=True)}
        for entry in self:
            if entry.kind is EntryKind.FILE and entry.offset != expected[entry.path]:
                raise self._frame(entry.path)
        if layout.size != self.header.payload_size:
            raise self._frame("the end of the archive")
        runs = -(-self.header.payload_chunks // _RUN)
        meter = Meter(self.header.payload_size, progress)
        run_steps(runs, threads, meter, lambda: self._verifier(layout))

    @contextmanager
    def _verifier(self, layout: Layout) -> Iterator[Step]:
        buffer = page_buffer(_RUN * CHUNK_SIZE)

        def step(number: int) -> int:
            start = number * _RUN * CHUNK_SIZE
            data = buffer[: self.header.payload_size - start]
            self.read_payload_into(data, start)
            wrong = check_frame(layout, data, start)
            if wrong is not None:
                raise self._frame(wrong)
            return len(data)

        yield step

    def _toc(self) -> bytes:
        header = self.header
        toc = bytearray(header.toc_size)
        view = memoryview(toc)
        for index in range(header.payload_chunks, header.chunks):
            start = (index - header.payload_chunks) * CHUNK_SIZE
            self._decrypt(index, 1, view[start : start + CHUNK_SIZE])
        return bytes(toc)

    def chunk(self, index: int) -> bytearray:
        """A decrypted chunk of the payload, which nobody changes; the last few are kept.

        Raises:
            NotGenuineError, UnavailableError: as :meth:`read_file`.
        """
        with self._cache_lock:
            found = self._cache.get(index)
            if found is not None:
                self._cache.move_to_end(index)
                return found
        try:
            chunk = bytearray(self.header.chunk_span(index)[1])
        except MemoryError as error:
            raise self._no_memory(index) from error
        self._decrypt(index, 1, memoryview(chunk))
        with self._cache_lock:
            self._cache[index] = chunk
            while len(self._cache) > _CACHED_CHUNKS:
                self._cache.popitem(last=False)
        return chunk

    def is_kept(self, index: int) -> bool:
        """Whether a chunk is among the last few that were decrypted."""
        return index in self._cache

    def _decrypt(self, first: int, count: int, out: memoryview) -> None:
        """Decrypt up to ``_RUN`` chunks into ``out``, which has exactly their length."""
        try:
            room = self._room()
            sealed, texts = room.sealed[:count], room.texts[:count]
            if first + count > self._full:  # the last one is shorter
                size = self.header.chunk_span(first + count - 1)[1]
                sealed[-1] = sealed[-1][: size + TAG_SIZE]
                texts[-1] = texts[-1][:size]
            self._file.read_chunks(texts, first)
            tags = self._file.tags(first, count)
            for place, each in enumerate(sealed):
                each[-TAG_SIZE:] = tags[TAG_SIZE * place : TAG_SIZE * (place + 1)]
            # The loop is starmap's: each of Python's steps is one that other threads wait for.
            parts = zip(
                chunk_nonces(first, count),
                sealed,
                repeat(self._data, count),
                [out[at : at + CHUNK_SIZE] for at in range(0, len(out), CHUNK_SIZE)],
                strict=True,  # none may be left out
            )
            place = first
            try:
                for _ in starmap(self._cipher.decrypt_into, parts):
                    place += 1
            except InvalidTag as error:
                raise self._corrupt(place) from error
        except MemoryError as error:
            raise self._no_memory(first) from error

    def _room(self) -> _Room:
        room: _Room | None = getattr(self._scratch, "room", None)
        if room is None:
            room = self._scratch.room = _Room()
        return room

    def _corrupt(self, index: int) -> NotGenuineError:
        in_toc = index >= self.header.payload_chunks
        return NotGenuineError(
            "image.toc-corrupt" if in_toc else "image.chunk-corrupt",
            f"{self.path}: chunk {index} was changed"
            + (" (it holds the table of contents)" if in_toc else ""),
            field=f"chunk {index}",
            expected="bytes that fit the chunk's tag",
            got="others",
            remedy="Get the image again from whoever sealed it.",
        )

    def _no_memory(self, index: int) -> UnavailableError:
        return UnavailableError(
            "image.no-memory",
            f"{self.path}: no memory is left to decrypt chunk {index}",
            field=f"chunk {index}",
            expected=f"{CHUNK_SIZE} bytes, a few times",
            got="none",
            remedy="Give the process more memory.",
        )

    def _frame(self, where: str) -> MalformedError:
        return MalformedError(
            "image.frame",
            f"{self.path}: the archive and the table of contents differ",
            field=where,
            expected="what the table of contents says",
            got="another tar header, padding or place",
            remedy="Seal the tree again; whoever made this image didn't follow the format.",
        )


def open_image(
    path: Path, key: Secret, expected_id: Sha384 | None = None, *, slot: bytes | None = None
) -> SealedImage:
    """Open a sealed image.

    Takes milliseconds at any size: reads header, digests and table of contents, not the content.

    Args:
        path: the image file.
        key: the image key, 16 or 32 bytes.
        expected_id: which image it must be, from a launch contract. None accepts any image that
            was sealed under the key, an older one too: encryption alone can't tell.
        slot: a key slot to use in place of the file's, where the key was changed; 40 bytes.

    Raises:
        MalformedError: where the file isn't a sealed image (see :class:`ImageFile`), or its table
            of contents is malformed: ``image.toc``.
        NotGenuineError: ``image.id`` for another image than expected, ``image.wrong-key``,
            ``image.key-commitment``, ``image.tags``, ``image.toc-corrupt``, ``image.truncated``.
        UnavailableError: ``image.unreadable``.

    Source: specs/sealed-image.md, "Opening".
    Does not check: the payload's chunks; each is checked when it is read, all by ``verify_all``.
    """
    # 1. Prologue, header, length, table of digests.
    file = ImageFile(path)
    try:
        # 2. Which image it is, before any key is used on it.
        if expected_id is not None and file.id != expected_id:
            raise NotGenuineError(
                "image.id",
                "this is another image than the one expected",
                field="image id",
                expected=str(expected_id),
                got=str(file.id),
                remedy="Use the image that the launch contract names, or write a new contract.",
            )
        # 3. The content key, from the slot; it must be the one that the header commits to.
        content = unwrap_content_key(
            file.prologue.slot if slot is None else slot,
            key,
            salt=file.header.salt,
            commitment=file.header.key_commitment,
        )
        # 4. The table of contents.
        return SealedImage(file, content)
    except CasemateError as error:
        file.close()
        if not error.message.startswith(f"{path}"):
            error.message = f"{path}: {error.message}"
        raise


def rewrapped_slot(path: Path, key: Secret, new_key: Secret) -> bytes:
    """The key slot of an image for another image key: 40 bytes. Data and id stay as they are.

    Args:
        path: the image file; nothing is written to it.
        key: the key that its slot is for.
        new_key: the key that the new slot is for.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: as :func:`open_image`.

    Does not check: that nobody kept the old key and the old slot. Who did can still read the
    image; only sealing again ends that.
    """
    file = ImageFile(path)
    try:
        header = file.header
        content = unwrap_content_key(
            file.prologue.slot, key, salt=header.salt, commitment=header.key_commitment
        )
        return wrap_content_key(content, new_key)
    finally:
        file.close()
