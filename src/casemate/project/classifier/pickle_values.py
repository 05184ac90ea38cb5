"""The instructions of a pickle that a table of tensors needs, and no other.

Source: the Python library's ``pickletools`` (meaning of the instructions, protocol 2). Three
names may appear, and none is looked up: an ordered dict is a dict here, a rebuilt tensor is a
``Tensor`` that says where its elements lie, and a storage is a ``Storage``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from casemate.errors import MalformedError

_MAX_STEPS: Final = 200_000
_MAX_TEXT: Final = 4096
_MAX_DEPTH: Final = 10_000
_MAX_INTEGER_BYTES: Final = 16
_DICT: Final = "collections.OrderedDict"
_REBUILD: Final = "torch._utils._rebuild_tensor_v2"
_STORAGES: Final = {
    "torch.FloatStorage": "FloatStorage",
    "torch.LongStorage": "LongStorage",
}
_NAMES: Final = frozenset({_DICT, _REBUILD, *_STORAGES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A name that the pickle mentions. It is text: nothing is imported."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """A run of elements at the end of the checkpoint: kind, key, number of elements."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A view of a storage; offset, shape and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where a group of operands begins."""


Value: TypeAlias = (
    "str | int | Name | Storage | Tensor | _Mark"
    " | tuple[Value, ...] | list[Value] | dict[Value, Value] | None"
)


def malformed(
    field: str, message: str, expected: object, got: object, code: str | None = None
) -> MalformedError:
    """A ``MalformedError`` for a field of a checkpoint."""
    return MalformedError(
        f"checkpoint.{code or field}",
        message,
        field=field,
        expected=None if expected is None else str(expected),
        got=None if got is None else str(got),
    )


def read_pickle(data: bytes, position: int) -> tuple[Value, int]:
    """Read one pickle that starts at ``position``.

    Returns:
        Its value, and the position after it.

    Raises:
        MalformedError: ``checkpoint.instruction`` for an instruction outside the few allowed,
            ``checkpoint.name`` for a name outside them, ``checkpoint.pickle`` for nonsense.
    """
    machine = _Machine(data, position)
    for _ in range(_MAX_STEPS):
        if machine.step():
            return machine.result(), machine.position
    raise malformed("pickle", "a pickle with too many instructions", _MAX_STEPS, None)


class _Machine:
    """A stack, a memo and a position: enough to build plain values."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position
        self._stack: list[Value] = []
        self._memo: dict[int, Value] = {}

    def result(self) -> Value:
        if len(self._stack) != 1 or isinstance(self._stack[0], _Mark):
            raise malformed("pickle", "not exactly one value is left", 1, len(self._stack))
        return self._stack[0]

    def step(self) -> bool:
        """Carry out one instruction; True after the last."""
        at = self.position
        code = self._take(1)
        match code:
            case b".":
                return True
            case b"\x80":
                if self._take(1) != b"\x02":
                    raise malformed("pickle", "another pickle protocol", 2, None)
            case b"q":
                self._remember(self._number("<B"))
            case b"r":
                self._remember(self._number("<I"))
            case b"h":
                self._push(self._recall(self._number("<B")))
            case b"j":
                self._push(self._recall(self._number("<I")))
            case b"R":
                self._reduce()
            case b"b":
                self._build()
            case b"Q":
                self._push(_storage(self._pop()))
            case b"s" | b"u" | b"e" | b"a":
                self._collect(code)
            case _:
                self._push(self._value(code, at))
        return False

    def _value(self, code: bytes, at: int) -> Value:
        """The value that an instruction pushes."""
        match code:
            case b"(":
                return _Mark()
            case b"N":
                return None
            case b"\x88" | b"\x89":
                return code == b"\x88"
            case b"K":
                return self._number("<B")
            case b"M":
                return self._number("<H")
            case b"J":
                return self._number("<i")
            case b"\x8a":
                size = self._number("<B")
                if size > _MAX_INTEGER_BYTES:
                    raise malformed("pickle", "an integer too long", _MAX_INTEGER_BYTES, size)
                return int.from_bytes(self._take(size), "little", signed=True)
            case b"X":
                return self._text(self._number("<I"))
            case b"c":
                return self._name()
            case b"}":
                return {}
            case b"]":
                return []
            case b")":
                return ()
            case b"\x85" | b"\x86" | b"\x87":
                return tuple(reversed([self._pop() for _ in range(code[0] - 0x84)]))
            case b"t":
                return tuple(self._pop_to_mark())
            case _:
                raise MalformedError(
                    "checkpoint.instruction",
                    "the checkpoint holds an instruction that a table of tensors doesn't need",
                    field="pickle",
                    got=f"0x{code.hex()} at byte {at}",
                    remedy="Don't use this file: it may have been made to run code.",
                )

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self.position:
            raise malformed("pickle", "the pickle is cut short", f"{count} bytes", None)
        self.position += count
        return self._data[self.position - count : self.position]

    def _number(self, layout: str) -> int:
        (value,) = struct.unpack(layout, self._take(struct.calcsize(layout)))
        assert isinstance(value, int)
        return value

    def _text(self, size: int) -> str:
        if size > _MAX_TEXT:
            raise malformed("pickle", "a text too long", _MAX_TEXT, size)
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise malformed("pickle", "a text that isn't UTF-8", None, None) from error

    def _name(self) -> Name:
        lines = []
        for _ in range(2):
            end = self._data.find(b"\n", self.position, self.position + _MAX_TEXT)
            if end < 0:
                raise malformed("pickle", "a name without an end", None, None)
            lines.append(self._text(end - self.position))
            self.position = end + 1
        text = ".".join(lines)
        if text not in _NAMES:
            raise MalformedError(
                "checkpoint.name",
                "the checkpoint names something that a table of tensors doesn't need",
                field="pickle",
                expected=", ".join(sorted(_NAMES)),
                got=repr(text[:80]),
                remedy="Don't use this file: it may have been made to run code.",
            )
        return Name(text=text)

    def _push(self, value: Value) -> None:
        if len(self._stack) >= _MAX_DEPTH:
            raise malformed("pickle", "a pickle stacked too high", _MAX_DEPTH, None)
        self._stack.append(value)

    def _pop(self) -> Value:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            raise malformed("pickle", "an instruction without its operand", None, None)
        return self._stack.pop()

    def _pop_to_mark(self) -> list[Value]:
        values: list[Value] = []
        while self._stack:
            value = self._stack.pop()
            if isinstance(value, _Mark):
                return values[::-1]
            values.append(value)
        raise malformed("pickle", "a group without a beginning", None, None)

    def _remember(self, key: int) -> None:
        if not self._stack:
            raise malformed("pickle", "nothing to remember", None, None)
        self._memo[key] = self._stack[-1]

    def _recall(self, key: int) -> Value:
        if key not in self._memo or isinstance(self._memo[key], _Mark):
            raise malformed("pickle", "a value recalled that wasn't remembered", None, key)
        return self._memo[key]

    def _collect(self, code: bytes) -> None:
        """Put what is on the stack into the dict or list below it."""
        if code in b"ue":
            items = self._pop_to_mark()
        else:
            items = [self._pop() for _ in range(2 if code == b"s" else 1)][::-1]
        target = self._stack[-1] if self._stack else None
        if code in b"ea":
            if not isinstance(target, list):
                raise malformed("pickle", "items for what isn't a list", None, None)
            target.extend(items)
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise malformed("pickle", "pairs for what isn't a dict", None, None)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Only texts: hashing a tuple of shared tuples could take for ever.
            if not isinstance(key, str) or key in target:
                raise malformed("pickle", "a key that isn't a new text", None, None)
            target[key] = value

    def _reduce(self) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise malformed("pickle", "a call of what isn't a name", None, None)
        if name.text == _DICT and arguments == ():
            self._push({})
        elif name.text == _REBUILD:
            self._push(_rebuilt(arguments))
        else:
            raise malformed("pickle", "a call that a table doesn't need", None, name.text)

    def _build(self) -> None:
        """Attributes of the table (module versions): read over, never set."""
        self._pop()
        if not self._stack or not isinstance(self._stack[-1], dict):
            raise malformed("pickle", "attributes for what isn't a dict", None, None)


def _storage(value: Value) -> Storage:
    match value:
        case ("storage", Name(text=kind), str(key), str(), int(count), None) if (
            kind in _STORAGES and count >= 0
        ):
            return Storage(kind=_STORAGES[kind], key=key, count=count)
        case _:
            raise malformed("storage", "a reference that isn't to a whole storage", None, None)


def _rebuilt(arguments: tuple[Value, ...]) -> Tensor:
    match arguments:
        case (Storage() as storage, int(offset), tuple() as shape, tuple() as strides, *_) if (
            4 <= len(arguments) <= 6
        ):
            return Tensor(
                storage=storage, offset=offset, shape=_integers(shape), strides=_integers(strides)
            )
        case _:
            raise malformed("tensor", "a tensor of another form", None, None)


def _integers(values: tuple[Value, ...]) -> tuple[int, ...]:
    numbers = [value for value in values if isinstance(value, int)]
    if len(numbers) != len(values):
        raise malformed("tensor", "a shape or stride that isn't a number", None, None)
    return tuple(numbers)
