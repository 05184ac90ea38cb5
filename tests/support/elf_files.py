"""ELF files made by hand, for what reads them."""

from __future__ import annotations

import platform
import struct
from collections.abc import Sequence

MACHINE = {"x86_64": 62, "aarch64": 183}.get(platform.machine(), 62)
_NEEDED, _STRTAB, _SONAME, _STRSZ, _RPATH, _RUNPATH = 1, 5, 14, 10, 15, 29
_HEADER, _SEGMENT = 64, 56


def elf(
    *,
    needed: Sequence[str] = (),
    soname: str = "",
    rpath: str | None = None,
    runpath: str | None = None,
    interpreter: str = "",
    machine: int = MACHINE,
    after: bytes = b"",
) -> bytes:
    """A 64-bit file that says this to the loader and holds nothing that could run.

    Args:
        after: bytes behind everything that is loaded, where debug information lies.
    """
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        at = len(strings)
        strings.extend(value.encode() + b"\0")
        return at

    tags = [(_NEEDED, text(name)) for name in needed]
    for tag, value in ((_SONAME, soname or None), (_RPATH, rpath), (_RUNPATH, runpath)):
        if value is not None:
            tags.append((tag, text(value)))
    program = interpreter.encode() + b"\0" if interpreter else b""
    segments = 3 if interpreter else 2
    base = _HEADER + segments * _SEGMENT
    table = base + len(program)
    table += -table % 8
    tags += [(_STRTAB, table), (_STRSZ, len(strings))]
    dynamic = table + len(strings)
    dynamic += -dynamic % 8
    entries = b"".join(struct.pack("<QQ", *tag) for tag in (*tags, (0, 0)))
    end = dynamic + len(entries)

    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, machine, 1, 0, _HEADER, 0, 0, _HEADER, _SEGMENT, segments, 64, 0, 0
    )
    places = [(1, 0, end), (2, dynamic, len(entries))]
    if interpreter:
        places.insert(0, (3, base, len(program)))
    whole = bytearray(end)
    whole[:base] = header + b"".join(
        struct.pack("<IIQQQQQQ", kind, 5, at, at, at, size, size, 8) for kind, at, size in places
    )
    whole[base : base + len(program)] = program
    whole[table : table + len(strings)] = strings
    whole[dynamic:end] = entries
    return bytes(whole) + after
