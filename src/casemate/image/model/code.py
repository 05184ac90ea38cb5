"""Which files of a model run code when they are loaded.

Nothing is loaded here: pickles are recognised by their operations, archives by their lists.
"""

from __future__ import annotations

import ast
import io
import pickletools
import re
import zipfile
import zlib
from typing import IO

from casemate.image.model.errors import malformed

NUMPY = b"\x93NUMPY"
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
_NAMES = re.compile(
    r"\.(pkl|pickle|joblib|dill|pt|pth|ckpt)(\.(gz|bz2|xz|lzma|lz4|zst|z))?$", re.IGNORECASE
)
_LAMBDA = re.compile(rb'"class_name"\s*:\s*"Lambda"')
_KERAS = re.compile(r"(\.keras|/config\.json|keras_metadata\.pb|\.h5|\.hdf5)$", re.IGNORECASE)
_MAX_TEXT_PICKLE = 16 << 20
_MAX_NUMPY_HEADER = 65536
_MAX_MEMBERS = 100_000
_MAX_SEARCHED = 64 << 30
_MAX_DESCRIPTION = 256 << 20
_PIECE = 1 << 20
_OVERLAP = 256
_CODES = frozenset(ord(operation.code) for operation in pickletools.opcodes)
# What imports or calls.
_ACTIVE = {
    "GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD",
    "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID",
}  # fmt: skip


def why_code(name: str, file: IO[bytes], size: int) -> str:
    """Why a file runs code when it is loaded; empty where it doesn't, as far as can be seen.

    Args:
        name: its path.
        file: open at its start; seekable.
        size: in bytes.

    Raises:
        MalformedError: ``model.malformed`` for an array's header that can't be read.
    """
    head = file.read(16)
    file.seek(0)
    if _is_pickle(head):
        return "a pickle"
    if head.startswith(NUMPY):
        return "a NumPy array of objects, which are pickles" if _has_objects(file) else ""
    if head.startswith(ZIP):
        return _why_archive(file)
    if head.startswith(HDF5):
        return _why_lambda(file)
    if _NAMES.search(name):
        return "a pickle by its name"
    if _KERAS.search(f"/{name}") and (why := _why_lambda(file)):
        return why
    file.seek(0)
    if size <= _MAX_TEXT_PICKLE and head[:1] and head[0] in _CODES and _is_text_pickle(file):
        return "a pickle of an old protocol"
    return ""


def _is_pickle(head: bytes) -> bool:
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2] in _CODES


def _is_text_pickle(file: IO[bytes]) -> bool:
    names: set[str] = set()
    try:
        for operation, _, _ in pickletools.genops(file.read(_MAX_TEXT_PICKLE)):
            names.add(operation.name)
    except (ValueError, OverflowError, UnicodeError, MemoryError):
        return False
    return bool(names & _ACTIVE)


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
        return "O" in description
    if isinstance(description, list | tuple):
        # Of a field: its name, its type, its shape. A name with an O is only a name.
        return any(
            _names_objects(field[1]) if isinstance(field, tuple) and len(field) > 1 else True
            for field in description
        )
    return True


def _why_archive(file: IO[bytes]) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MAX_MEMBERS:
                raise malformed("archive", f"at most {_MAX_MEMBERS} members", str(len(members)))
            for member in members:
                if _NAMES.search(member.filename):
                    return f"an archive with a pickle, {member.filename[:80]}"
                with archive.open(member) as inner:
                    start = inner.read(_MAX_NUMPY_HEADER + 12)
                    if _is_pickle(start[:16]):
                        return f"an archive with a pickle, {member.filename[:80]}"
                    if start.startswith(NUMPY) and _has_objects(io.BytesIO(start)):
                        return f"an archive with an array of objects, {member.filename[:80]}"
                    if _KERAS.search(f"/{member.filename}") and (
                        _LAMBDA.search(start) or _why_lambda(inner, _MAX_DESCRIPTION)
                    ):
                        return "a Keras model with a Lambda layer"
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise malformed("archive", "a zip archive", str(error)[:80]) from error
    return ""


def _why_lambda(file: IO[bytes], limit: int = _MAX_SEARCHED) -> str:
    tail, left = b"", limit
    while left > 0 and (piece := file.read(_PIECE)):
        left -= len(piece)
        if _LAMBDA.search(tail + piece):
            return "a Keras model with a Lambda layer, which holds Python code"
        tail = piece[-_OVERLAP:]
    if left <= 0:
        raise malformed("model's description", f"at most {limit} bytes", "more")
    return ""
