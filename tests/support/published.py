"""Real evidence that other projects published, where it lies beside the repository."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).resolve().parents[3] / "shared" / "vectors"
FOLDER = Path(os.environ.get("CASEMATE_VECTORS", _BESIDE))

needs_published = pytest.mark.skipif(
    not (FOLDER / "cases.json").is_file(),
    reason="needs published evidence: a folder that CASEMATE_VECTORS names",
)


def cases() -> list[dict]:
    """The cases, or none where the folder is absent."""
    path = FOLDER / "cases.json"
    return json.loads(path.read_text()) if path.is_file() else []


def content(name: str) -> bytes:
    """A file of the folder."""
    return (FOLDER / name).read_bytes()
