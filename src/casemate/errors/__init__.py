"""Errors: one root, a type for each cause, an exit code for each type."""

from casemate.errors.causes import (
    CasemateError,
    InternalError,
    MalformedError,
    Mismatch,
    NotAcceptableError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)

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
