"""The root error, its causes, and their exit codes.

Causes stay apart, as types and as exit codes: malformed input is not a forged signature, and
neither is a policy that says no. Every error carries a stable ``code`` (dotted, lower case), and
where it applies the ``field``, what was ``expected`` beside what was ``got`` (never a secret),
and a ``remedy``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

__all__ = [
    "CasemateError",
    "InternalError",
    "MalformedError",
    "Mismatch",
    "NotAcceptableError",
    "NotGenuineError",
    "UnavailableError",
    "UsageError",
]


class CasemateError(Exception):
    """The root of every error that Casemate raises on purpose.

    Args:
        code: stable, dotted, lower case: ``image.chunk-corrupt``. Scripts may match on it.
        message: one sentence for a person, without a full stop.
        field: the name of the offending field, as the format's specification names it.
        expected: what would have been right.
        got: what was there. Never a secret.
        remedy: what the reader can do about it, as a sentence.
    """

    exit_code: ClassVar[int] = 1
    cause: ClassVar[str] = "internal error"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.message]
        if self.field is not None:
            parts.append(f"field: {self.field}")
        if self.expected is not None:
            parts.append(f"expected: {self.expected}")
        if self.got is not None:
            parts.append(f"got: {self.got}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, object]:
        """The error as a JSON-ready object; absent parts are left out."""
        pairs: dict[str, object | None] = {
            "code": self.code,
            "cause": self.cause,
            "message": self.message,
            "field": self.field,
            "expected": self.expected,
            "got": self.got,
            "remedy": self.remedy,
        }
        return {key: value for key, value in pairs.items() if value is not None}


class InternalError(CasemateError):
    """A broken invariant of Casemate's own: a bug."""


class UsageError(CasemateError):
    """The command line or the configuration is wrong."""

    exit_code = 2
    cause = "usage or configuration"


class MalformedError(CasemateError):
    """Input that doesn't have the form its specification demands."""

    exit_code = 3
    cause = "malformed input"


class NotGenuineError(CasemateError):
    """A signature, chain, revocation or binding doesn't hold: this isn't what it claims to be."""

    exit_code = 4
    cause = "not genuine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """One way in which genuine evidence fails a policy.

    Args:
        where: which alternative of which policy: ``tf-launcher[0]``.
        field: the constrained field.
        expected: the constraint, readable.
        got: the value that was found, readable; ``absent`` where there was none.
        remedy: what would make it acceptable.
    """

    where: str
    field: str
    expected: str
    got: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.field}: expected {self.expected}, got {self.got}"


class NotAcceptableError(CasemateError):
    """Genuine, but the policy says no. Lists every mismatch, not only the first."""

    exit_code = 5
    cause = "not acceptable to the policy"

    def __init__(
        self,
        code: str,
        message: str,
        *,
        mismatches: tuple[Mismatch, ...] = (),
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(code, message, field=field, expected=expected, got=got, remedy=remedy)
        self.mismatches = mismatches

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *map(str, self.mismatches)])

    def as_dict(self) -> dict[str, object]:
        """The error with its mismatches, each an object of its own."""
        if not self.mismatches:
            return super().as_dict()
        return {**super().as_dict(), "mismatches": [asdict(item) for item in self.mismatches]}


class UnavailableError(CasemateError):
    """Can't be decided now: something needed is out of reach. Retry; never "allow"."""

    exit_code = 6
    cause = "can't decide now"
