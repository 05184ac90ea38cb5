"""Which files of a model run code when they are loaded.

Nothing is loaded here: pickles are recognised by their operations, archives by their lists. What a
loader looks into, this does too: archives with something before them, archives in archives,
compressed files.
"""

from __future__ import annotations

import ast
import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from typing import IO, cast

from casemate.errors import MalformedError
from casemate.image.archives import opened_tar, tar_members
from casemate.image.model.errors import malformed
from casemate.image.model.pickles import is_pickle, runs_code

NUMPY = b"\x93NUMPY"
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
_NO_MEMBERS = b"PK\x05\x06"  # an archive's end, at its start
_NAMES = re.compile(
    r"\.(pkl|pickle|joblib|dill|pt|pth|ckpt)(\.(gz|bz2|xz|lzma|lz4|zst|z))?$", re.IGNORECASE
)
_KERAS = re.compile(r"(\.keras|/config\.json|keras_metadata\.pb|\.h5|\.hdf5)$", re.IGNORECASE)
# The types that NumPy itself writes; it reads others, "object" among them.
_PLAIN_TYPE = re.compile(r"[<>=|]?([biufcSUaV]\d+|[mM]8(\[\d*[A-Za-z]+(/\d+)?\])?|\?)")
_MAX_NUMPY_HEADER = 65536
_MAX_MEMBERS = 100_000
_MAX_SEARCHED = 64 << 30
_MAX_DESCRIPTION = 256 << 20
_MAX_DEPTH = 4
_MAX_USER_BLOCK = 1 << 40
_MAX_INNER_USER_BLOCK = 1 << 20
_PIECE = 1 << 20
_OVERLAP = 256
_START = 1 << 20
_BLANK = b"\0 \t\r\n"  # zeros too: what is ASCII in UTF-16 or UTF-32 is it without


def _spelled(text: str) -> bytes:
    """A text in JSON, in which any character may be escaped."""
    each = (b"(?:%c|\\\\u00(?i:%02x))" % (ord(c), ord(c)) for c in text)
    return b"".join(each)


_LAMBDA = re.compile(
    b'"%b":"(?:%b|%b)"' % (_spelled("class_name"), _spelled("Lambda"), _spelled("__lambda__"))
)
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_Opener = Callable[[IO[bytes]], io.BufferedIOBase]
_COMPRESSED: tuple[tuple[bytes, _Opener], ...] = (
    (b"\x1f\x8b", lambda file: gzip.GzipFile(fileobj=file)),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\0", lzma.LZMAFile),
    (b"\x5d\0\0", partial(lzma.LZMAFile, format=lzma.FORMAT_ALONE)),
    *((start, lambda file: _zlib_start(file)) for start in _ZLIB),
)


def why_code(name: str, file: IO[bytes]) -> str:
    """Why a file runs code when it is loaded; empty where it doesn't, as far as can be seen.

    Args:
        name: its path.
        file: open at its start; seekable.

    Raises:
        MalformedError: ``model.malformed`` for an array's header or an archive that can't be read,
            or goes on for ever.
    """
    return _why(name, file, 0, _Budget())


class _Budget:
    """How much may still be unpacked of one file: archives may say the same bytes many times."""

    def __init__(self) -> None:
        self._left = _MAX_SEARCHED

    def take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise malformed("archive", f"at most {_MAX_SEARCHED} bytes when unpacked", "more")


class _Inner:
    """A file in an archive; what is read of it, or passed over, is taken from the budget."""

    def __init__(self, file: IO[bytes], size: int, budget: _Budget) -> None:
        self._file, self._size, self._budget = file, size, budget
        self.tell, self.seekable = file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        self._budget.take(min(size, self._size) if size >= 0 else self._size)
        return self._file.read(size)

    def readline(self, size: int) -> bytes:
        self._budget.take(min(size, self._size))
        return self._file.readline(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        now = self._file.tell()
        to = offset + {os.SEEK_SET: 0, os.SEEK_CUR: now, os.SEEK_END: self._size}[whence]
        to = min(max(to, 0), self._size)
        self._budget.take(to - now if to >= now else to)  # back: from the start
        return self._file.seek(to)


def _why(name: str, file: IO[bytes], depth: int, budget: _Budget) -> str:
    if depth > _MAX_DEPTH:
        raise malformed("archive", f"at most {_MAX_DEPTH} archives in each other", "more")
    head = file.read(512)
    file.seek(0)
    if is_pickle(head):
        return "a pickle"
    if head.startswith(NUMPY) and _has_objects(file):
        return "a NumPy array of objects, which are pickles"
    # On with all others: a file may be of two kinds at once, each to its own loader.
    if why := _why_archive(name, file, head, depth, budget):
        return why
    if _is_hdf5(file, _MAX_INNER_USER_BLOCK if depth else _MAX_USER_BLOCK):
        return _why_lambda(file)
    if _NAMES.search(name):
        return "a pickle by its name"
    if _KERAS.search(f"/{name}") and (
        why := _why_lambda(file, _MAX_DESCRIPTION if depth else _MAX_SEARCHED)
    ):
        return why
    file.seek(0)
    if runs_code(file):
        return "a pickle of an old protocol, or without its usual beginning"
    return ""


def _has_objects(file: IO[bytes]) -> bool:
    """Whether an array's type holds Python objects."""
    start = file.read(12)
    wide = start[6:7] >= b"\x02"
    size = int.from_bytes(start[8:12] if wide else start[8:10], "little")
    if len(start) < 12 or size > _MAX_NUMPY_HEADER:
        raise malformed("array's header", f"at most {_MAX_NUMPY_HEADER} bytes", str(size))
    file.seek(12 if wide else 10)
    try:
        header = ast.literal_eval(file.read(size).decode("utf-8").strip())
        description = header["descr"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise malformed("array's header", "a type and a shape", type(error).__name__) from error
    return _names_objects(description)


def _names_objects(description: object) -> bool:
    if isinstance(description, str):
        return _PLAIN_TYPE.fullmatch(description) is None
    if isinstance(description, list | tuple):
        # Of a field: its name, its type, its shape. A name with an O is only a name.
        return any(
            _names_objects(field[1]) if isinstance(field, tuple) and len(field) > 1 else True
            for field in description
        )
    return True


def _why_archive(name: str, file: IO[bytes], head: bytes, depth: int, budget: _Budget) -> str:
    """What runs code in an archive or a compressed file; empty where it is neither, too."""
    # By its end, not its start: that is how a zip archive is found by whoever reads one.
    begins = head.startswith((ZIP, _NO_MEMBERS))
    if begins or (not depth and zipfile.is_zipfile(file)):
        file.seek(0)
        if why := _why_zip(file, depth, budget, sure=head.startswith(ZIP)):
            return why
    file.seek(0)
    if _is_tar(head) and (why := _why_tar(file, depth, budget)):
        return why
    for start, opener in _COMPRESSED:
        if head.startswith(start) and (why := _why_compressed(name, opener(file), depth, budget)):
            return why
    file.seek(0)
    return ""


def _why_zip(file: IO[bytes], depth: int, budget: _Budget, *, sure: bool) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise malformed("archive", f"at most {_MAX_MEMBERS} members", str(len(members)))
            for member in members:
                with archive.open(member) as opened:
                    inner = _Inner(opened, member.file_size, budget)
                    if why := _why_member(member.filename, inner, depth, budget):
                        return why
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        if not sure and isinstance(error, zipfile.BadZipFile):
            return ""  # other bytes that look like an archive's end
        raise malformed("archive", "a zip archive", str(error)[:80]) from error
    return ""


def _why_member(name: str, inner: _Inner, depth: int, budget: _Budget) -> str:
    why = _why(name, cast("IO[bytes]", inner), depth + 1, budget)
    return f"an archive with {why}: {name[:80]}" if why else ""


def _is_tar(head: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _why_tar(file: IO[bytes], depth: int, budget: _Budget) -> str:
    try:
        with opened_tar(file, _bad_tar) as archive:
            for member in tar_members(archive, _bad_tar):
                opened = archive.extractfile(member) if member.isreg() else None
                if opened is not None:
                    inner = _Inner(opened, member.size, budget)
                    if why := _why_member(member.name, inner, depth, budget):
                        return why
    except (tarfile.TarError, ValueError, OverflowError, EOFError, KeyError) as error:
        raise _bad_tar("archive", f"{type(error).__name__}: {error}"[:120]) from error
    return ""


def _bad_tar(field: str, got: str) -> MalformedError:
    return malformed(field, "a tar archive", got)


def _why_compressed(name: str, file: io.BufferedIOBase, depth: int, budget: _Budget) -> str:
    start = bytearray()
    try:
        while len(start) < _START and (piece := file.read1(_START)):
            start += piece
        if _is_tar(bytes(start[:512])):
            file.seek(0)
            inner = _Inner(cast("IO[bytes]", file), _MAX_SEARCHED, budget)
            return _why_tar(cast("IO[bytes]", inner), depth + 1, budget)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        pass  # broken, or not compressed at all; a loader may have run what comes before
    bare = re.sub(r"\.[^./]*$", "", name)
    why = _why(bare, io.BytesIO(start), depth + 1, budget) if start else ""
    return f"compressed, {why}" if why else ""


def _zlib_start(file: IO[bytes]) -> io.BytesIO:
    """What comes first of a compressed stream, up to the very byte where it is broken."""
    start, stream = bytearray(), zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        while len(start) < _START and (piece := file.read(1)):
            start += stream.decompress(piece, _START)
    return io.BytesIO(start)


def _is_hdf5(file: IO[bytes], farthest: int) -> bool:
    """Whether a file is HDF5, perhaps with a block of the user's before it; then at its start."""
    at, found = 0, False
    while not found and at <= farthest:
        file.seek(at)
        start = file.read(len(HDF5))
        if len(start) < len(HDF5):
            break
        found, at = start == HDF5, max(512, 2 * at)
    file.seek(0)
    return found


def _why_lambda(file: IO[bytes], limit: int = _MAX_SEARCHED) -> str:
    tail, left = b"", limit
    while left > 0 and (piece := file.read(_PIECE)):
        left -= len(piece)
        searched = tail + piece.translate(None, _BLANK)
        if _LAMBDA.search(searched):
            return "a Keras model with a Lambda layer, which holds Python code"
        tail = searched[-_OVERLAP:]
    if left <= 0:
        raise malformed("model's description", f"at most {limit} bytes", "more")
    return ""
