"""What one side of a channel knows of hardware by itself: the vendors' files, and the time."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import UsageError
from casemate.evidence import Evidence
from casemate.verify import Known

_MAX_SIZE = 1024 * 1024


def knowledge_from_files(files: Sequence[Path]) -> Callable[[Evidence], Known]:
    """Hold evidence against the endorsements in files, read now, at the time when it comes.

    Args:
        files: each at most 1 MiB, of any kind that `sort_endorsements` knows.

    Raises:
        UsageError: ``endorsements.unreadable``.
        MalformedError: ``endorsements.*``.
    """
    endorsements = sort_endorsements([(str(path), _read(path)) for path in files])
    return lambda _: Known(at=datetime.datetime.now(datetime.UTC), endorsements=endorsements)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_SIZE + 1)
    except OSError as error:
        raise UsageError(
            "endorsements.unreadable",
            f"the endorsements {path} can't be read",
            field="--endorsements",
            got=error.strerror or str(error),
        ) from error
