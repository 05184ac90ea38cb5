"""Sealing, verifying, extracting and mounting, beside openssl, age, gocryptfs, tar and plain files.

Every pair of figures comes from the same minutes of the same machine, taking turns.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from bench import mounts
from bench.peers import (
    Gocryptfs,
    age_encrypt,
    age_recipient,
    best,
    fetch_memory,
    fill,
    openssl_rate,
    read_whole,
)
from bench.rows import Row, compared, limited
from casemate.image.extract import extract
from casemate.image.keys import generate_key
from casemate.image.reader import open_image
from casemate.image.seal import SealedImageInfo, seal
from casemate.image.storage import is_memory, memory_left
from casemate.image.tree import tree_from_directory
from casemate.types import Secret

AREA = "images"
GIB = 1 << 30
_ONE, _BOTH = "openssl speed aes-256-gcm, one core", "openssl speed aes-256-gcm, two cores"
_COPY = "cp of the same file"
_FILES = 7000
_SHARED = Path("/dev/shm")


def rows(scratch: Path) -> Iterator[Row]:
    """Measure. Needs about 5 GiB under ``scratch`` and 5 GiB of memory, and cleans up."""
    disk = scratch / "images"
    disk.mkdir()
    roomy = is_memory(_SHARED) and memory_left() > 6 * GIB
    if not roomy:
        print("    too little memory: what should be in memory is on the disk", file=sys.stderr)
    memory = Path(tempfile.mkdtemp(prefix="casemate-bench-", dir=_SHARED if roomy else disk))
    try:
        yield from _rows(disk, memory)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
        shutil.rmtree(memory, ignore_errors=True)


def _rows(disk: Path, memory: Path) -> Iterator[Row]:
    key = generate_key()
    one, both = openssl_rate(), openssl_rate(2)
    yield limited(AREA, _ONE, one / 1e9, "GB/s")
    yield limited(AREA, _BOTH, both / 1e9, "GB/s")
    source = disk / "source"  # as most have their model: a file of the disk, in the page cache
    source.mkdir()
    fill(source / "model", GIB)
    os.sync()
    read_whole(source / "model")
    yield from _sealing_in_memory(memory, source, key, one)
    yield from _sealing_to_a_disk(disk, source, key, one)
    info = seal(tree_from_directory(source), key, disk / "image")
    with open_image(info.path, key, info.id) as image:
        (taken,) = best(lambda: image.verify_all(threads=2), rounds=4)
    yield compared(
        AREA, "verifying 1 GiB whole, two threads", GIB / taken / 1e9, "GB/s",
        against=_BOTH, reference=both / 1e9, least=0.85,
    )  # fmt: skip
    extracted = memory / "model"
    _copy(source / "model", extracted)
    yield from mounts.rows(AREA, disk, source / "model", extracted, info, key)
    shutil.rmtree(source)
    extracted.unlink()
    info.path.unlink()
    yield from _many_files(memory, key)


def _sealing_in_memory(memory: Path, source: Path, key: Secret, one: float) -> Iterator[Row]:
    """Where nothing waits for a disk: ours, the others', and a mere copy."""
    tree, model = tree_from_directory(source), source / "model"
    works = {"": _work(lambda: seal(tree, key, memory / "image"))}
    if (recipient := age_recipient(memory)) is not None:
        works["age"] = _work(lambda: age_encrypt(model, memory / "age", recipient))
    peer = Gocryptfs(memory) if Gocryptfs.missing() is None else None
    if peer is not None:
        works["gocryptfs"] = _work(lambda: peer.take(model))
    works[_COPY] = _work(lambda: _copy(model, memory / "copy"))

    def clear() -> None:
        for name in ("image", "age", "copy"):
            (memory / name).unlink(missing_ok=True)
        if peer is not None:
            peer.empty()

    def before() -> None:
        clear()
        fetch_memory(GIB + GIB // 4)

    sealing, *others = (GIB / taken / 1e9 for taken in best(*works.values(), before=before))
    clear()
    name = "sealing 1 GiB in memory, two threads"
    yield compared(AREA, name, sealing, "GB/s", against=_ONE, reference=one / 1e9, least=0.6)
    for other, rate in zip(list(works)[1:], others, strict=True):
        against, least = f"{other} ({rate:.2f} GB/s)", None if other == _COPY else 1.0
        yield compared(AREA, name, sealing, "GB/s", against=against, reference=rate, least=least)


def _sealing_to_a_disk(disk: Path, source: Path, key: Secret, one: float) -> Iterator[Row]:
    """With the wait for it: ours, and a mere copy."""
    tree = tree_from_directory(source)
    outputs = disk / "image", disk / "copy"

    def copy() -> None:
        _copy(source / "model", outputs[1])
        subprocess.run(["sync", str(outputs[1])], check=True)

    def before() -> None:
        for output in outputs:
            output.unlink(missing_ok=True)
        os.sync()
        fetch_memory(GIB + GIB // 4)

    sealing, copying = (
        GIB / taken / 1e9
        for taken in best(lambda: seal(tree, key, outputs[0]), copy, before=before)
    )
    outputs[1].unlink()
    name = "sealing 1 GiB to a disk, synced, two threads"
    yield compared(AREA, name, sealing, "GB/s", against=_ONE, reference=one / 1e9, least=0.6)
    against = f"{_COPY}, synced ({copying:.2f} GB/s)"
    yield compared(AREA, name, sealing, "GB/s", against=against, reference=copying)


def _copy(source: Path, target: Path) -> None:
    # By the program, for Python would ask the kernel to copy, and might get a second name for it.
    command = ["cp", "--reflink=never", str(source), str(target)]
    subprocess.run(command, check=True)


def _work(work: Callable[[], object]) -> Callable[[], object]:
    return work


def _many_files(memory: Path, key: Secret) -> Iterator[Row]:
    source = memory / "source"
    source.mkdir()
    for number in range(_FILES):
        path = source / f"d{number % 70}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        fill(path, GIB // _FILES)
    info = seal(tree_from_directory(source), key, memory / "image")
    subprocess.run(["tar", "-cf", memory / "archive", "-C", source, "."], check=True)
    shutil.rmtree(source)
    yield _opening(info, key)
    targets = memory / "extracted", memory / "untarred"

    def extracting() -> float:
        with open_image(info.path, key, info.id) as image:
            return _once(targets[0], lambda: extract(image, targets[0]))

    def untarring() -> float:
        targets[1].mkdir()
        command = ["tar", "-xf", memory / "archive", "-C", targets[1]]
        return _once(targets[1], lambda: subprocess.run(command, check=True))

    pairs = [(extracting(), untarring()) for _ in range(3)]
    ours, theirs = (min(taken) for taken in zip(*pairs, strict=True))
    yield compared(
        AREA, f"extracting 1 GiB in {_FILES} files", GIB / ours / 1e9, "GB/s",
        against=f"tar -x of the same into the same memory ({GIB / theirs / 1e9:.2f} GB/s)",
        reference=GIB / theirs / 1e9, least=1 / 1.3,
    )  # fmt: skip


def _once(target: Path, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    try:
        work()
        return time.perf_counter() - start
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _opening(info: SealedImageInfo, key: Secret) -> Row:
    times = []
    for _ in range(15):
        start = time.perf_counter()
        open_image(info.path, key, info.id).close()
        times.append(time.perf_counter() - start)
    return limited(AREA, f"opening 1 GiB in {_FILES} files", 1000 * median(times), "ms", at_most=50)
