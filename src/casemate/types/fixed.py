"""Byte strings whose length is part of their type."""

from __future__ import annotations

from typing import ClassVar, Self

from casemate.errors import MalformedError


class _FixedBytes(bytes):
    """A byte string of exactly ``length`` bytes."""

    length: ClassVar[int]
    __slots__ = ()

    def __new__(cls, value: bytes) -> Self:
        """Take ``value`` if it has the right length.

        Raises:
            MalformedError: ``types.length`` where it hasn't.
        """
        if len(value) != cls.length:
            raise MalformedError(
                "types.length",
                f"a {cls.__name__} of the wrong length",
                field=cls.__name__,
                expected=f"{cls.length} bytes",
                got=f"{len(value)} bytes",
            )
        return super().__new__(cls, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __str__(self) -> str:
        return self.hex()


class Sha256(_FixedBytes):
    """A SHA-256 digest: 32 bytes."""

    length = 32
    __slots__ = ()


class Sha384(_FixedBytes):
    """A SHA-384 digest: 48 bytes."""

    length = 48
    __slots__ = ()


class Nonce(_FixedBytes):
    """A challenge, or the channel's own value in its place: 32 bytes."""

    length = 32
    __slots__ = ()


class ReportData(_FixedBytes):
    """What a TEE binds into its evidence for its caller: 64 bytes."""

    length = 64
    __slots__ = ()
