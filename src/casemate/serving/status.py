"""How a request ends: gRPC's status codes, in one place for every protocol."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from casemate.errors import CasemateError, MalformedError, UnavailableError, UsageError

_MAX_SHOWN: Final = 80


class Code(enum.IntEnum):
    """gRPC's codes, which TensorFlow's errors share.

    Source: gRPC, "Status codes and their use in gRPC".
    """

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


# Source: TensorFlow Serving's REST interface answers each code with this.
HTTP_STATUS: Final[Mapping[Code, int]] = MappingProxyType(
    {
        Code.OK: 200,
        Code.CANCELLED: 499,
        Code.UNKNOWN: 500,
        Code.INVALID_ARGUMENT: 400,
        Code.DEADLINE_EXCEEDED: 504,
        Code.NOT_FOUND: 404,
        Code.ALREADY_EXISTS: 409,
        Code.PERMISSION_DENIED: 403,
        Code.RESOURCE_EXHAUSTED: 429,
        Code.FAILED_PRECONDITION: 400,
        Code.ABORTED: 409,
        Code.OUT_OF_RANGE: 400,
        Code.UNIMPLEMENTED: 501,
        Code.INTERNAL: 500,
        Code.UNAVAILABLE: 503,
    }
)


class RequestError(CasemateError):
    """A request that is answered with an error.

    Args:
        status: gRPC's code for it.
        code, message, field, expected, got, remedy: as in every error.
    """

    exit_code = 2
    cause = "refused request"

    def __init__(
        self,
        status: Code,
        code: str,
        message: str,
        *,
        field: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(code, message, field=field, expected=expected, got=got, remedy=remedy)
        self.status = status


def status_of(error: CasemateError) -> Code:
    """The code that a request ends with because of ``error``."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, MalformedError):
        return Code.INVALID_ARGUMENT
    if isinstance(error, UsageError):
        return Code.FAILED_PRECONDITION
    return Code.UNAVAILABLE if isinstance(error, UnavailableError) else Code.INTERNAL


def wrong(field: str, expected: str, got: str) -> MalformedError:
    """The error for a part of a request that the model has no use for."""
    return MalformedError(
        "serving.request",
        "the request doesn't fit the model",
        field=field,
        expected=expected,
        got=got,
    )


def shown(text: str) -> str:
    """A name from a request, safe and short enough for an error."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…")
