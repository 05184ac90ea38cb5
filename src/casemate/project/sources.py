"""What can be sealed: a folder, a bill of materials, or one of the bills in the box."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.bom import Assembly, assemble, load_bom
from casemate.image.tree import tree_from_directory

_IN_THE_BOX = "bom:"
_ENDINGS = (".yaml", ".yml")


def read_source(source: str, *, keep_owner: bool = False, keep_times: bool = False) -> Assembly:
    """The tree that a source stands for.

    Args:
        source: a folder; a bill of materials (``.yaml``); or ``bom:NAME``, a bill in the box.
        keep_owner: keep the owners of a folder's entries; otherwise all belong to root.
        keep_times: keep their times of change; otherwise all are 0.

    Raises:
        UsageError: it isn't there, or what it names isn't.
        MalformedError: a bill that is none.
    """
    path = _bill_in_the_box(source) if source.startswith(_IN_THE_BOX) else Path(source)
    if path.is_dir():
        entries = tree_from_directory(path, keep_owner=keep_owner, mtime=None if keep_times else 0)
        return Assembly(entries=entries, why={}, warnings=())
    if path.suffix in _ENDINGS and path.is_file():
        return assemble(load_bom(path, environment=os.environ))
    raise UsageError(
        "image.source",
        f"{source} can't be sealed",
        field="source",
        expected="a folder, a bill of materials (.yaml), or bom:NAME",
        got="a file" if path.exists() else "nothing",
        remedy=f"In the box are: {', '.join(sorted(_bills()))}.",
    )


def _bill_in_the_box(source: str) -> Path:
    bills = _bills()
    name = source.removeprefix(_IN_THE_BOX)
    if name not in bills:
        raise UsageError(
            "image.source",
            f"there's no bill of materials {name!r} in the box",
            field="source",
            expected=" or ".join(f"bom:{each}" for each in sorted(bills)),
            got=source,
        )
    return bills[name]


def _bills() -> dict[str, Path]:
    folder = Path(str(files("casemate.project") / "boms"))
    return {path.stem: path for path in folder.glob("*.yaml")}
