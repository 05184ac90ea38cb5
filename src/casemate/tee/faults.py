"""What goes wrong while evidence is obtained, as errors: the same for every TEE."""

from __future__ import annotations

import errno

from casemate.errors import CasemateError, UnavailableError, UsageError

BUSY = frozenset({errno.EBUSY, errno.EAGAIN, errno.EINTR})
"""Numbers of errors after which it is worth trying again at once."""

_ABSENT = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


def absent(tee: str, why: str) -> UsageError:
    """This machine hasn't that TEE, or doesn't show it to this process.

    Args:
        tee: as ``--tee`` names it.
        why: what was looked for and not found, in few words: ``no /dev/nsm``.
    """
    return UsageError(
        "tee.absent",
        f"this isn't {tee}: {why}",
        field="--tee",
        expected=tee,
        got=why,
        remedy="See what there is: casemate evidence. In a container, pass the device through.",
    )


def failed(tee: str, doing: str, error: OSError) -> CasemateError:
    """The interface of a TEE gave an error.

    Args:
        tee: as ``--tee`` names it.
        doing: what was tried: ``reading outblob``.
        error: what came of it.
    """
    number = error.errno or 0
    got = errno.errorcode.get(number, str(error))
    if number in _ABSENT:
        return absent(tee, f"{doing} ended with {got}")
    if number in _FORBIDDEN:
        return UsageError(
            "tee.forbidden", f"this process may not use {tee}", field=doing, got=got,
            remedy="Run as a user who may open the device; in a container, pass it through.",
        )  # fmt: skip
    if number == errno.EFBIG:
        return UnavailableError(
            "tee.too-large", f"the evidence of {tee} is larger than the kernel hands out",
            field=doing, got=got, remedy="Use a newer kernel, or ask the host for fewer extras.",
        )  # fmt: skip
    if number == errno.ETIMEDOUT:
        return UnavailableError(
            "tee.timeout", f"{tee} didn't answer in time", field=doing, got=got,
            remedy="The host makes or forwards the quote: look at its quoting service.",
        )  # fmt: skip
    if number in BUSY:
        return UnavailableError(
            "tee.busy", f"{tee} is busy", field=doing, got=got, remedy="Try again.",
        )  # fmt: skip
    return UnavailableError(
        "tee.failed", f"{tee} gave no evidence", field=doing, got=got,
        remedy="Look at the kernel's log (dmesg), then at the host's.",
    )  # fmt: skip


def unexpected(tee: str, field: str, expected: str, got: str) -> UnavailableError:
    """The interface of a TEE answered, but not what it should."""
    return UnavailableError(
        "tee.unexpected",
        f"{tee} answered something unexpected",
        field=field,
        expected=expected,
        got=got,
        remedy="Nothing was attested. Try again; if it stays so, the interface has changed.",
    )
