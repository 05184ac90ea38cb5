"""Writing files so that whatever keeps one from being written is said with its name.

What the system says of a write names no file: who caught it further up could only guess.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casemate.errors import UsageError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, what the system refuses is about a file, or about what is written to a folder.

    Raises:
        UsageError: ``image.unwritable``.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(
            "image.unwritable",
            f"{path} can't be written",
            field=str(path),
            expected="a new file, or what came before",
            got=str(error),
            remedy="Check the folder, its permissions, and the space left on the disk.",
        ) from error


def require_new(path: Path) -> None:
    """Say before long work that a file won't be overwritten at its end.

    Raises:
        UsageError: ``file.exists``.
    """
    if os.path.lexists(path):  # of one that can't be looked at, writing will tell
        raise exists(path)


def exists(path: Path) -> UsageError:
    """A file has the name that a new one was to have."""
    return UsageError(
        "file.exists",
        f"{path} exists already",
        field=str(path),
        expected="a name that is free",
        remedy="Choose another name, or remove the file if nobody needs it.",
    )


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of it at once: nothing is left to be written when the file is closed.

    Raises:
        OSError: it can't be written.
    """
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
