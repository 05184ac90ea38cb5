"""Small file systems of the kernel's own, and ones that are full."""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, kind: str, *options: str) -> Iterator[Path]:
    """A file system of the kernel's own in a new folder."""
    folder.mkdir()
    command = ["mount", "-t", kind, *options, kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{kind} can't be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    with mounted(folder, "tmpfs", "-o", "size=256k") as disk:
        yield disk


def fill(disk: Path) -> Path:
    """Leave no room for content; names there may still be had. Gives what takes the room."""
    filler = disk / ".filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return filler
