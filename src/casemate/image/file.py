"""A sealed image's file: what anyone can see of it, and its bytes, which are to be checked.

The file's bytes come from an untrusted host. They are read into memory of our own first and
checked there (never mapped: the host could change or cut a mapped file between check and use).
"""

from __future__ import annotations

import os
from pathlib import Path

from casemate.errors import (
    CasemateError,
    MalformedError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)
from casemate.image.format import (
    BLOCK_DIGEST_SIZE,
    PAYLOAD_START,
    TAG_SIZE,
    TAGS_IN_BLOCK,
    Header,
    Prologue,
    parse_header,
    parse_prologue,
)
from casemate.types import Sha384, sha384

_KEPT_BLOCKS = 128  # of tags, 64 KiB each: enough for 32 GiB


class ImageFile:
    """A sealed image's file and header, before any key: what anyone can see of it.

    Args:
        path: the file.

    Raises:
        MalformedError: ``image.magic``, ``image.header``, ``image.version``, ``image.size``,
            ``encoding.*``: see ``casemate.image.format``.
        UnavailableError: ``image.unreadable``.
        NotGenuineError: ``image.tags`` where the table of digests isn't the one the header names.

    Does not check: the content; nothing of it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # O_NONBLOCK: a pipe put in the file's place must not hold us up.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            self.prologue: Prologue = parse_prologue(self._first_bytes())
            self.header: Header = parse_header(self.prologue.header)
            self._check_size()
            self._digests = self._read_digests()
        except CasemateError as error:
            os.close(self._descriptor)
            if not error.message.startswith(f"{path}"):
                error.message = f"{path}: {error.message}"
            raise
        self._blocks: dict[int, bytes] = {}
        self.id: Sha384 = sha384(self.prologue.header)

    def fileno(self) -> int:
        """The open file's descriptor."""
        return self._descriptor

    def close(self) -> None:
        """Let go of the file. Reading afterwards is an error."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read_into(self, buffer: memoryview, position: int, what: str) -> None:
        """Fill ``buffer`` from the file.

        Raises:
            NotGenuineError: ``image.truncated`` where the file is shorter than it was.
            UnavailableError: ``image.unreadable``.
        """
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], position + done)
            except OSError as error:
                raise _unreadable(self.path, error, what) from error
            if count == 0:
                raise NotGenuineError(
                    "image.truncated",
                    f"{self.path} was cut while it was open: {what} is missing",
                    field=what,
                    expected=f"{len(buffer)} bytes at {position}",
                    got=f"{done} bytes",
                    remedy="Copy the image to this machine again, and leave it alone while in use.",
                )
            done += count

    def read_chunks(self, buffers: list[memoryview], first: int) -> None:
        """Fill each buffer with a sealed chunk, from chunk ``first`` on, in one call if it can be.

        Raises:
            NotGenuineError, UnavailableError: as :meth:`read_into`.
        """
        position, _ = self.header.chunk_span(first)
        whole = sum(map(len, buffers))
        try:
            if os.preadv(self._descriptor, buffers, position) == whole:
                return
        except OSError:
            pass  # one by one, so that the error names the chunk
        for index, buffer in enumerate(buffers, first):
            self.read_into(buffer, self.header.chunk_span(index)[0], f"chunk {index}")

    def _first_bytes(self) -> bytes:
        try:
            return os.pread(self._descriptor, PAYLOAD_START, 0)
        except OSError as error:
            raise _unreadable(self.path, error) from error

    def _check_size(self) -> None:
        got = os.fstat(self._descriptor).st_size
        if got != self.header.file_size:
            raise MalformedError(
                "image.size",
                "the file hasn't the length its header tells",
                field="file size",
                expected=f"{self.header.file_size} bytes",
                got=f"{got} bytes",
                remedy="Copy the image again; it was cut, or something was added to it.",
            )

    def tags(self, first: int, count: int) -> bytes:
        """The tags of ``count`` chunks from chunk ``first`` on, 16 bytes each.

        Blocks of tags are read and checked when they are needed.

        Raises:
            NotGenuineError: ``image.tags`` where a block isn't the one the header stands for,
                ``image.truncated``.
            UnavailableError: ``image.unreadable``.
        """
        number, place = divmod(first, TAGS_IN_BLOCK)
        end = place + count
        tags = self._block(number)[TAG_SIZE * place : TAG_SIZE * end]
        if end > TAGS_IN_BLOCK:
            tags += self.tags(first - place + TAGS_IN_BLOCK, end - TAGS_IN_BLOCK)
        return tags

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            block = self._read_block(number)
            if len(self._blocks) >= _KEPT_BLOCKS:
                # Another thread may have made room already.
                self._blocks.pop(next(iter(tuple(self._blocks)), 0), None)
            self._blocks[number] = block
        return block

    def _read_block(self, number: int) -> bytes:
        position, size = self.header.tag_block_span(number)
        block = bytearray(size)
        self.read_into(memoryview(block), position, f"block {number} of the table of tags")
        expected = self._digests[BLOCK_DIGEST_SIZE * number : BLOCK_DIGEST_SIZE * (number + 1)]
        digest = sha384(bytes(block))
        if digest != expected:
            raise _changed_tags(
                f"{self.path}: block {number} of the image's table of tags was changed",
                expected.hex(),
                str(digest),
            )
        return bytes(block)

    def _read_digests(self) -> bytes:
        digests = bytearray(BLOCK_DIGEST_SIZE * self.header.tag_blocks)
        self.read_into(memoryview(digests), self.header.digests_start, "the table of digests")
        digest = sha384(bytes(digests))
        if digest != self.header.tags_digest:
            raise _changed_tags(
                "the image's table of digests was changed",
                str(self.header.tags_digest),
                str(digest),
            )
        return bytes(digests)


def _changed_tags(message: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        "image.tags",
        message,
        field="tags-digest",
        expected=expected,
        got=got,
        remedy="Get the image again from whoever sealed it.",
    )


def _unreadable(path: Path, error: OSError, what: str | None = None) -> CasemateError:
    kind = (
        UsageError if isinstance(error, FileNotFoundError | PermissionError) else UnavailableError
    )
    return kind(
        "image.unreadable",
        f"{path} can't be read" + (f": {what}" if what else ""),
        field=what or str(path),
        expected="a file that can be read",
        got=os.strerror(error.errno or 0),
        remedy="Check that the file is there and that you may read it.",
    )
