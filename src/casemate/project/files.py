"""Writing files: private ones are never readable by others, none is overwritten by accident."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from casemate.errors import MalformedError, UsageError
from casemate.image.writing import exists


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


def replace_public(path: Path, content: bytes) -> None:
    """Write a file that was made from others, or make it again: whole or not at all.

    Raises:
        UsageError: ``file.unwritable``.
    """
    _replace(path, content, file_mode=0o644, folder_mode=0o755)


def replace_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, or write it again: whole or not at all.

    Raises:
        UsageError: ``file.unwritable``.
    """
    _replace(path, content, file_mode=0o600, folder_mode=0o700)


def read_file(path: Path, *, field: str) -> bytes:
    """Read a file that a user named.

    Args:
        field: what the user calls it.

    Raises:
        UsageError: ``file.unreadable``.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            "file.unreadable",
            f"{path} can't be read",
            field=field,
            got=error.strerror or str(error),
        ) from error


def read_text(path: Path, *, field: str) -> str:
    """Read a text file that a user named.

    Raises:
        UsageError: ``file.unreadable``.
        MalformedError: ``file.text`` where it isn't UTF-8.
    """
    try:
        return read_file(path, field=field).decode()
    except UnicodeDecodeError as error:
        raise MalformedError(
            "file.text", f"{path} is not text", field=field, expected="UTF-8"
        ) from error


def _replace(path: Path, content: bytes, *, file_mode: int, folder_mode: int) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with _writing(path):
        temporary.unlink(missing_ok=True)
        _make(temporary, content, file_mode, folder_mode)
        try:
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _write(path: Path, content: bytes, *, file_mode: int, folder_mode: int) -> None:
    with _writing(path):
        _make(path, content, file_mode, folder_mode)


def _make(path: Path, content: bytes, file_mode: int, folder_mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=folder_mode)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode)
    except FileExistsError as error:
        raise exists(path) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
    except BaseException:  # half a file is none, and would be in the way of the next attempt
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            "file.unwritable",
            f"{path} can't be written",
            field=str(path),
            got=str(error),
            remedy="Check the folder, its permissions, and the space left on the disk.",
        ) from error
