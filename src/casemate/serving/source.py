"""The versions that a model's folder holds. Specified in ``specs/served-model.md``."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from casemate.errors import MalformedError, UsageError

MODEL_FILE: Final = "model.onnx"
SAVED_MODEL_FILE: Final = "saved_model.pb"
_MAX_VERSION_DIGITS: Final = 18

# Which file it is: another one under the same name is worth another try.
Identity: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFolder:
    """A version on disk.

    Args:
        number: the version.
        folder: its folder.
        file: its model file in there, whose name says what kind it is.
        identity: tells its model file from an earlier one of the same name.
    """

    number: int
    folder: Path
    file: Path
    identity: Identity


def list_versions(base: Path) -> dict[int, VersionFolder]:
    """The versions under ``base``, by number.

    Raises:
        UsageError: ``serving.model-path`` where the folder can't be read.
    """
    versions: dict[int, VersionFolder] = {}
    try:
        for folder in sorted(base.iterdir()):
            text = folder.name
            numeric = text.isascii() and text.isdigit() and len(text) <= _MAX_VERSION_DIGITS
            if not numeric or int(text) in versions:
                continue
            named = (folder / name for name in (MODEL_FILE, SAVED_MODEL_FILE))
            file = next((each for each in named if each.is_file()), None)
            if file is not None:
                found = file.stat()
                identity = (found.st_ino, found.st_size, found.st_mtime_ns)
                versions[int(text)] = VersionFolder(
                    number=int(text), folder=folder, file=file, identity=identity
                )
    except OSError as error:
        raise no_model(base, error.strerror or "unreadable") from error
    return versions


def check_folder(folder: Path) -> None:
    """Refuse a version with something in it that is no file: opening a pipe waits for ever.

    Raises:
        MalformedError: ``serving.model`` where there is a pipe, a socket or a device, or a link to
            one.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # noqa: PTH118 (thousands of files)
            with contextlib.suppress(OSError):  # a link to nothing: whoever needs it says so
                if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116
                    raise MalformedError(
                        "serving.model",
                        "a version's folder holds something other than files",
                        field=path[-200:],
                        expected="a file",
                        got="a pipe, a socket or a device",
                    )


def no_model(base: Path, got: str) -> UsageError:
    """The error for a folder without a model."""
    return UsageError(
        "serving.model-path",
        f"no model under {base}",
        field="model_base_path",
        expected=f"{base}/1/{MODEL_FILE} or {SAVED_MODEL_FILE}, or another version number",
        got=got,
        remedy="Name the folder that holds the numbered versions, not a version itself.",
    )
