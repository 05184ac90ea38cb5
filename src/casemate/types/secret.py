"""A byte string that doesn't show itself."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Bytes that must not reach a log, an argument list, an environment or an error.

    It masks itself in ``repr``, ``str`` and ``format``, compares in constant time, and refuses
    to be pickled or hashed. Python can't promise to wipe memory; the threat model says so.

    Args:
        value: the secret bytes, any length.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """The bytes themselves. Call it where they are used and nowhere else."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __repr__(self) -> str:
        return f"Secret(<{len(self._value)} bytes>)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")
