"""Private directories for unix sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from casemate.errors import UsageError

_LONGEST_PATH = 107  # bytes of sun_path, less the NUL; source: unix(7)
_OURS = len("/casemate-xxxxxxxx/") + 40  # the directory, and the longest name inside
_PLACES = ("/tmp", "/var/tmp", "/dev/shm", "/run")  # noqa: S108  a private directory is made there


@contextlib.contextmanager
def socket_directory() -> Iterator[Path]:
    """A new directory, mode 0700, whose path is short enough for sockets; removed at the end.

    It lies in the usual place for temporary files, or elsewhere where that has too long a path.

    Raises:
        UsageError: ``channel.socket-directory`` where there's no place for it.
    """
    directory = _make()
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _make() -> Path:
    try:
        usual = tempfile.gettempdir()
    except FileNotFoundError:  # a container with nothing but a mount or two to write to
        usual = "no folder for temporary files"
    for place in (usual, *_PLACES):
        if len(os.fsencode(place)) + _OURS <= _LONGEST_PATH:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="casemate-", dir=place))
    raise UsageError(
        "channel.socket-directory",
        "there's no place for a unix socket",
        field="TMPDIR",
        expected=f"a writable folder whose path has at most {_LONGEST_PATH - _OURS} bytes",
        got=f"{usual}, and none of {', '.join(_PLACES)}",
        remedy="Set TMPDIR to such a folder.",
    )
