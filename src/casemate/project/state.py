"""Small files in which a command says what it started, for the next command to read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from casemate.encoding import MapReader, decode_json
from casemate.errors import CasemateError
from casemate.project.files import replace_public

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")

_MAX_SIZE = 64 * 1024


def write_state(path: Path, state: DataclassInstance) -> None:
    """Write what there is to say, whole or not at all."""
    replace_public(path, json.dumps(asdict(state)).encode())


def read_state(path: Path, take: Callable[[MapReader], T]) -> T | None:
    """Read it again; None where nobody wrote it yet, or it isn't ours.

    Args:
        path: see `write_state`.
        take: makes the state of its fields.
    """
    try:
        content = decode_json(path.read_bytes(), what="state", max_size=_MAX_SIZE)
        return take(MapReader(content, what="state"))
    except (OSError, CasemateError):
        return None
