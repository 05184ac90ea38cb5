"""Writing files: private ones are never readable by others, none is overwritten by accident."""

from __future__ import annotations

import os
from pathlib import Path

from casemate.errors import UsageError


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read; its folder is made with mode 0700.

    Raises:
        UsageError: ``file.exists``, ``file.unwritable``.
    """
    _write(path, content, file_mode=0o600, folder_mode=0o700)


def write_public(path: Path, content: bytes) -> None:
    """Write a new file with the usual mode.

    Raises:
        UsageError: ``file.exists``, ``file.unwritable``.
    """
    _write(path, content, file_mode=0o644, folder_mode=0o755)


def _write(path: Path, content: bytes, *, file_mode: int, folder_mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=folder_mode)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode)
    except FileExistsError as error:
        raise UsageError(
            "file.exists",
            f"{path} exists already",
            field=str(path),
            remedy="Choose another name, or remove the file if nobody needs it.",
        ) from error
    except OSError as error:
        raise UsageError(
            "file.unwritable", f"{path} can't be written", field=str(path), got=str(error)
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
