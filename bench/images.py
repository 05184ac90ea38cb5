"""Sealing, reading, mounting and extracting, against ``openssl speed`` of the same cipher."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from bench.rows import Row, compared, limited
from casemate.image.extract import extract
from casemate.image.fuse import FuseMount, fuse_available
from casemate.image.keys import generate_key
from casemate.image.reader import SealedImage, open_image
from casemate.image.seal import SealedImageInfo, seal
from casemate.image.tree import tree_from_directory
from casemate.types import Secret

AREA = "images"
GIB = 1 << 30
_SHARE = "openssl speed aes-256-gcm, one core"
_FILES = 7000


def rows(scratch: Path) -> Iterator[Row]:
    """Measure. Needs about 4 GiB under ``scratch``, 12 for the 8 GiB image, and cleans up."""
    folder = scratch / "images"
    folder.mkdir()
    try:
        yield from _rows(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rows(folder: Path) -> Iterator[Row]:
    key = generate_key()
    reference = _openssl_rate()
    yield limited(AREA, _SHARE, reference, "GB/s")

    source = folder / "source"
    source.mkdir()
    _fill(source / "model", GIB)
    tree = tree_from_directory(source)
    taken, info = _timed(lambda: seal(tree, key, folder / "image"))
    name = "sealing 1 GiB (two passes, synced), two threads"
    yield compared(AREA, name, GIB / taken / 1e9, "GB/s", against=_SHARE, reference=reference)

    with open_image(info.path, key, info.id) as image:
        for threads, least in ((1, 0.7), (2, None)):
            taken = _best(lambda threads=threads: image.verify_all(threads=threads))  # type: ignore[misc]
            yield compared(
                AREA,
                f"reading 1 GiB whole, {threads} thread{'s' * (threads > 1)}",
                GIB / taken / 1e9,
                "GB/s",
                against=_SHARE,
                reference=reference,
                least=least,
            )
    yield _opening("1 GiB", info, key)
    yield from _mounted(folder, info, key, reference)
    yield from _extracted(folder, info, key, "1 GiB in one file")
    shutil.rmtree(source)
    info.path.unlink()

    source.mkdir()
    for number in range(_FILES):
        path = source / f"d{number % 70}" / f"f{number}"
        path.parent.mkdir(exist_ok=True)
        _fill(path, GIB // _FILES)
    info = seal(tree_from_directory(source), key, folder / "image")
    yield _opening(f"1 GiB in {_FILES} files", info, key)
    yield from _extracted(folder, info, key, f"1 GiB in {_FILES} files")
    shutil.rmtree(source)
    info.path.unlink()

    if shutil.disk_usage(folder).free > 12 * GIB:
        source.mkdir()
        with (source / "model").open("wb") as sparse:
            sparse.truncate(8 * GIB)
        info = seal(tree_from_directory(source), key, folder / "image")
        yield _opening("8 GiB", info, key)


def _openssl_rate() -> float:
    """GB/s of one core at our chunk size."""
    done = subprocess.run(
        ["openssl", "speed", "-mr", "-evp", "aes-256-gcm", "-bytes", "262144", "-seconds", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("+F:"))
    return float(line.split(":")[-1]) / 1e9


def _fill(path: Path, size: int) -> None:
    """Bytes that don't compress, cheaply."""
    block = os.urandom(min(size, 1 << 20))
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])


def _timed(work: Callable[[], SealedImageInfo]) -> tuple[float, SealedImageInfo]:
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def _best(work: Callable[[], object], rounds: int = 3) -> float:
    """Of a few rounds the shortest: others share the machine."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _opening(what: str, info: SealedImageInfo, key: Secret) -> Row:
    times = []
    for _ in range(15):
        start = time.perf_counter()
        open_image(info.path, key, info.id).close()
        times.append(time.perf_counter() - start)
    return limited(AREA, f"opening {what}", 1000 * median(times), "ms", at_most=50)


def _mounted(folder: Path, info: SealedImageInfo, key: Secret, reference: float) -> Iterator[Row]:
    if fuse_available() is not None:
        return
    mountpoint = folder / "mountpoint"
    mountpoint.mkdir()
    cold, warm = [], []
    for _ in range(3):
        server = _serve(info, key, mountpoint)
        try:
            cold.append(_read(mountpoint / "model"))
            warm.append(_read(mountpoint / "model"))
        finally:
            os.kill(server, signal.SIGTERM)
            os.waitpid(server, 0)
    for name, times in (("cold", cold), ("warm (page cache)", warm)):
        yield compared(
            AREA,
            f"reading 1 GiB through the mount, {name}",
            GIB / min(times) / 1e9,
            "GB/s",
            against=_SHARE,
            reference=reference,
        )


def _serve(info: SealedImageInfo, key: Secret, mountpoint: Path) -> int:
    """Serve a mount from a child, as the launcher does; returns once it is mounted."""
    ready, told = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child == 0:
        try:
            with open_image(info.path, key, info.id) as image, FuseMount(image, mountpoint):
                os.write(told, b"1")
                signal.sigwait({signal.SIGTERM})
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    return child


def _read(path: Path) -> float:
    buffer = bytearray(1 << 20)
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def _extracted(folder: Path, info: SealedImageInfo, key: Secret, what: str) -> Iterator[Row]:
    memory = Path("/dev/shm")  # where it is meant to go: memory-backed storage
    enough = memory.is_dir() and shutil.disk_usage(memory).free > 2 * GIB
    target = (memory if enough else folder) / f"casemate-bench-{os.getpid()}"
    times = []
    for _ in range(2):
        with open_image(info.path, key, info.id) as image:
            times.append(_extract_once(image, target))
    yield limited(AREA, f"extracting {what}", min(times), "s", at_most=4)


def _extract_once(image: SealedImage, target: Path) -> float:
    start = time.perf_counter()
    try:
        extract(image, target)
        return time.perf_counter() - start
    finally:
        shutil.rmtree(target, ignore_errors=True)
