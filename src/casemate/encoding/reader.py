"""A cursor over bytes that never reads past the end and never leaves a rest unnoticed."""

from __future__ import annotations

from typing import Literal

from casemate.errors import MalformedError

ByteOrder = Literal["little", "big"]


class ByteReader:
    """Read fixed-size fields from ``data``, each under a name that errors can tell.

    Args:
        data: the bytes to read.
        what: what they are, for messages: ``"sealed image header"``.
        byteorder: of the integers, unless a call says otherwise.
    """

    __slots__ = ("_byteorder", "_data", "_offset", "_what")

    def __init__(self, data: bytes, *, what: str, byteorder: ByteOrder = "little") -> None:
        self._data = data
        self._offset = 0
        self._what = what
        self._byteorder: ByteOrder = byteorder

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def take(self, length: int, field: str) -> bytes:
        """The next ``length`` bytes.

        Raises:
            MalformedError: ``encoding.truncated`` where fewer are left.
        """
        if length < 0 or length > self.remaining:
            raise MalformedError(
                "encoding.truncated",
                f"the {self._what} is cut short",
                field=field,
                expected=f"{length} bytes at offset {self._offset}",
                got=f"{self.remaining} bytes",
            )
        start, self._offset = self._offset, self._offset + length
        return self._data[start : self._offset]

    def uint(self, length: int, field: str, byteorder: ByteOrder | None = None) -> int:
        """The next ``length`` bytes as an unsigned integer."""
        return int.from_bytes(self.take(length, field), byteorder or self._byteorder)

    def expect(self, value: bytes, field: str) -> None:
        """Read exactly ``value``.

        Raises:
            MalformedError: ``encoding.unexpected`` where something else is there.
        """
        got = self.take(len(value), field)
        if got != value:
            raise MalformedError(
                "encoding.unexpected",
                f"the {self._what} has an unexpected {field}",
                field=field,
                expected=value.hex(),
                got=got.hex(),
            )

    def zeros(self, length: int, field: str) -> None:
        """Read ``length`` reserved bytes, all of which must be zero."""
        self.expect(bytes(length), field)

    def finish(self) -> None:
        """Nothing may be left.

        Raises:
            MalformedError: ``encoding.trailing`` where something is.
        """
        if self.remaining:
            raise MalformedError(
                "encoding.trailing",
                f"bytes follow the end of the {self._what}",
                field="trailing bytes",
                expected="none",
                got=f"{self.remaining} bytes at offset {self._offset}",
            )
