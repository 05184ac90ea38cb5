"""Bytecode of Python sources: compiled, and not imported.

This file is also a program by itself, ``python -I -S bytecode.py``: sources come on its standard
input, their bytecode goes to its standard output. So it compiles the same everywhere: what a
caller's environment, options and depth of calls change of bytecode doesn't reach it. It imports
only from the standard library, and little, so that it starts fast.
"""

from __future__ import annotations

import codecs
import importlib.util
import marshal
import re
import struct
import sys
import warnings
from collections.abc import Sequence
from typing import BinaryIO

_HASH_BASED_UNCHECKED = (1).to_bytes(4, "little")
_MAX_SOURCE = 16 * 1024 * 1024
_COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")
_LINE_END = re.compile(rb"\r\n?|\n")
_PLAIN_CODECS = {"utf-8", "utf8", "ascii", "us-ascii", "latin-1", "latin1", "iso-8859-1"}
_SIZES = struct.Struct("<II")


def bytecode(text: bytes, name: str) -> bytes | None:
    """The bytecode of a source file; the same bytes on every machine for the same source.

    Version 2 of marshal's format has no references, whose presence depends on chance; the
    hash-based header has no time.

    Args:
        text: the source.
        name: its path in the new root, which tracebacks show.

    Returns:
        None for what doesn't compile, such as a template; whoever imports it sees the error.
    """
    if len(text) > _MAX_SOURCE or not _has_plain_codec(text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(text, name, "exec", dont_inherit=True, optimize=0)
        body = marshal.dumps(code, 2)
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
        return None
    return (
        importlib.util.MAGIC_NUMBER
        + _HASH_BASED_UNCHECKED
        + importlib.util.source_hash(text)
        + body
    )


def _has_plain_codec(text: bytes) -> bool:
    """Whether the source names no codec, or one that is part of the interpreter.

    A codec is code: by its name alone it would be looked for and imported here.
    """
    for line in _LINE_END.split(text.removeprefix(codecs.BOM_UTF8), 2)[:2]:
        found = _COOKIE.match(line)
        if found:
            return found[1].decode("latin-1").lower().replace("_", "-") in _PLAIN_CODECS
    return True


def encode_sources(sources: Sequence[tuple[bytes, str]]) -> bytes:
    """What the program is given: of each source the sizes of name and text, then both.

    Args:
        sources: texts and names, as `bytecode` takes them.
    """
    parts = []
    for text, name in sources:
        encoded = name.encode("utf-8", "surrogatepass")
        parts += [_SIZES.pack(len(encoded), len(text)), encoded, text]
    return b"".join(parts)


def parse_bytecode(data: bytes) -> list[bytes | None]:
    """What the program gives: of each source whether there is bytecode, its size, and itself.

    Raises:
        ValueError: it isn't whole.
    """
    codes: list[bytes | None] = []
    at = 0
    while at < len(data):
        there, size = _SIZES.unpack(data[at : at + _SIZES.size].ljust(_SIZES.size, b"\xff"))
        at += _SIZES.size
        if there > 1 or size > (len(data) - at if there else 0):
            raise ValueError("bytecode of another size than is said")
        codes.append(data[at : at + size] if there else None)
        at += size
    return codes


def _main(given: BinaryIO, taken: BinaryIO) -> None:
    while head := given.read(_SIZES.size):
        name_size, size = _SIZES.unpack(head)
        name = given.read(name_size).decode("utf-8", "surrogatepass")
        code = bytecode(given.read(size), name)
        taken.write(_SIZES.pack(code is not None, len(code or b"")))
        taken.write(code or b"")
    taken.flush()


if __name__ == "__main__":
    _main(sys.stdin.buffer, sys.stdout.buffer)
