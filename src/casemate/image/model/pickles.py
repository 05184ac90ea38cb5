"""Whether bytes are a pickle that runs code, told without running any of it.

A pickle is a program. Its operations are gone through as an unpickler would, with kinds of values
in place of values, up to the first call. What comes after that, or whether the file ends well,
matters no more: the code has run.

Source: Python, "pickle", protocols 0 to 5; ``pickletools`` for what operations take and leave.
"""

from __future__ import annotations

import os
import pickletools
import re
from typing import IO

_CODES = {ord(operation.code): operation for operation in pickletools.opcodes}
_PROTO, _STOP = 0x80, ord(".")
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "OBJ", "INST"})
# What else calls a method of what it is done to, and where on the stack that is.
_DONE_TO = {"APPEND": -2, "SETITEM": -3, "APPENDS": None, "SETITEMS": None, "ADDITEMS": None}
_IMPORTS = frozenset({"GLOBAL", "STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"})
_ACTIVE = _CALLS | _IMPORTS | {"PERSID", "BINPERSID"}
# Lines as an unpickler takes them: `pickletools` is stricter, and would end where it doesn't.
_LINES = {
    "INT": re.compile(rb"\s*[-+]?\d\w*\s*"), "LONG": re.compile(rb"\s*[-+]?\d\w*\s*"),
    "FLOAT": re.compile(rb"\s*[-+.\w]+\s*"), "STRING": re.compile(rb"\s*(['\"]).*\1\s*", re.DOTALL),
    "GET": re.compile(rb"\s*\d\w*\s*"), "PUT": re.compile(rb"\s*\d\w*\s*"),
    "GLOBAL": re.compile(rb"[\w.\x80-\xff]+"), "INST": re.compile(rb"[\w.\x80-\xff]+"),
}  # fmt: skip
_TWO_LINES = frozenset({"GLOBAL", "INST"})
_ENOUGH = 2_000_000  # operations in a row that make sense: no other file has so many
_LONG_LINE = 1 << 16
_IMPORTED = "imported"
_MARK, _SLICE = pickletools.markobject, pickletools.stackslice
_ANY, _TUPLE = pickletools.anyobject, pickletools.pytuple
_Value = pickletools.StackObject | str


def is_pickle(head: bytes) -> bool:
    """Whether a file begins as a pickle of protocol 2 to 5 does."""
    return len(head) > 2 and head[0] == _PROTO and 2 <= head[1] <= 5 and head[2] in _CODES


def runs_code(file: IO[bytes]) -> bool:
    """Whether an unpickler that is given a file comes to a call, or imports and ends well.

    Args:
        file: at its start; seekable.
    """
    return _Walk(file).runs()


class _Walk:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._stack: list[_Value] = []

    def runs(self) -> bool:
        active = False
        for _ in range(_ENOUGH):
            code = self._file.read(1)
            operation = _CODES.get(code[0]) if code else None
            if operation is None or not self._takes(operation):
                return False
            if code[0] == _STOP:
                return active
            if self._calls(operation.name):
                return True
            if not self._step(operation):
                return False
            active = active or operation.name in _ACTIVE
        return True

    def _takes(self, operation: pickletools.OpcodeInfo) -> bool:
        """Go past an operation's argument; False where it has none that an unpickler takes."""
        argument = operation.arg
        if argument is None:
            return True
        if argument.n == pickletools.UP_TO_NEWLINE:
            line = self._line()
            allowed = _LINES.get(operation.name)
            fits = line is not None and (allowed is None or allowed.fullmatch(line) is not None)
            return fits and (operation.name not in _TWO_LINES or self._line() is not None)
        size = argument.n
        if size in _LENGTHS:
            width, signed = _LENGTHS[size]
            start = self._file.read(width)
            size = int.from_bytes(start, "little", signed=signed) if len(start) == width else -1
        return size >= 0 and self._skip(size)

    def _line(self) -> bytes | None:
        """The next line, without its end; of a long one both ends."""
        line = self._file.readline(_LONG_LINE)
        start = line
        while line and not line.endswith(b"\n"):
            line = self._file.readline(_LONG_LINE)
        if not line:
            return None
        return start[:-1] if start is line else start + line[:-1]

    def _skip(self, size: int) -> bool:
        if size < _LONG_LINE:
            return len(self._file.read(size)) == size
        if size >= 1 << 62:
            return False
        # The last byte is read: going beyond the end is no error by itself.
        self._file.seek(size - 1, os.SEEK_CUR)
        return len(self._file.read(1)) == 1

    def _calls(self, name: str) -> bool:
        """Whether the values are such that an unpickler calls something."""
        stack = self._stack
        mark = len(stack) - 1 - stack[::-1].index(_MARK) if _MARK in stack else -1
        if name in _DONE_TO:
            place = _DONE_TO[name]
            place = mark - 1 if place is None else len(stack) + place
            return place >= 0 and stack[place] == _IMPORTED
        if name in ("INST", "OBJ"):
            inner = stack[mark + 1 : mark + 2]
            return mark >= 0 and (name == "INST" or inner in ([_IMPORTED], [_ANY]))
        if name not in _CALLS:
            return False
        below = -3 if name == "NEWOBJ_EX" else -2
        if len(stack) < -below or stack[below] not in (_IMPORTED, _ANY):
            return False
        return name in ("BUILD", "NEWOBJ_EX") or stack[-1] in (_TUPLE, _ANY)

    def _step(self, operation: pickletools.OpcodeInfo) -> bool:
        """Take from the stack and put there; False where an unpickler would fail."""
        before, stack = list(operation.stack_before), self._stack
        to_mark = _MARK in before or (operation.name == "POP" and stack[-1:] == [_MARK])
        if to_mark:
            if _MARK not in stack:
                return False
            del stack[len(stack) - 1 - stack[::-1].index(_MARK) :]
            before = before[: before.index(_MARK)] if _MARK in before else []
        if len(stack) < len(before) or (before and _MARK in stack[-len(before) :]):
            return False
        del stack[len(stack) - len(before) :]
        imported = operation.name in _IMPORTS
        stack += [_IMPORTED] if imported else operation.stack_after
        return True
