"""Assembling a bill of materials into a folder, against ``cp -a`` of what comes of it.

The folders are in memory where there is a file system for that. What a disk's own file system does
for a new file falls on both alike, would hide what is measured, and depends on what was deleted
before: ext4 without a journal passes over each file that went in the last minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from bench.rows import Row, limited
from casemate.image.copying import copy_tree
from casemate.project.sources import read_source

AREA = "bills"
_BILL = "bom:model-server"
_ROUNDS = 7
_IN_MEMORY = Path("/dev/shm")


def rows(scratch: Path) -> Iterator[Row]:
    """Measure. Needs about 1 GiB in memory, or else under ``scratch``."""
    base = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else scratch
    folder = Path(tempfile.mkdtemp(prefix="casemate-bench-bills-", dir=base))
    cache, os.environ["XDG_CACHE_HOME"] = os.environ.get("XDG_CACHE_HOME"), str(folder / "cache")
    try:
        yield from _rows(folder)
    finally:
        del os.environ["XDG_CACHE_HOME"]
        if cache is not None:
            os.environ["XDG_CACHE_HOME"] = cache
        shutil.rmtree(folder, ignore_errors=True)


def _rows(folder: Path) -> Iterator[Row]:
    first = _timed(lambda: _build(folder / "tree"))
    builds, copies = [], []
    for _ in range(_ROUNDS):  # in turn, so that what else the machine does falls on both
        builds.append(_timed(lambda: _build(folder / "built")))
        copies.append(_timed(lambda: _copy(folder / "tree", folder / "copied")))
        shutil.rmtree(folder / "built")
        shutil.rmtree(folder / "copied")
    reference = median(copies)
    yield limited(AREA, "cp -a of a Python and ONNX Runtime tree", reference, "s")
    held = median(_timed(lambda: _build(folder / "tree")) for _ in range(_ROUNDS))
    for name, taken, most in (
        ("first time, compiling every module", first, None),
        ("again, modules compiled before", median(builds), 2.0),
        ("into a folder that holds it", held, None),
    ):
        ratio = taken / reference
        yield limited(AREA, f"bill with ELF closure, {name}, by cp -a", ratio, "x", at_most=most)


def _build(target: Path) -> None:
    for _ in copy_tree(read_source(_BILL).entries, target):
        pass


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", source, target], check=True)


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
