"""Reading through a mount, beside gocryptfs and plain files."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.peers import Gocryptfs, fetch_memory, read_at_random, read_whole
from bench.rows import Row, compared, limited
from casemate.errors import UnavailableError
from casemate.image.format import (
    CHUNK_SIZE,
    PAYLOAD_START,
    TAG_SIZE,
    Header,
    Prologue,
    block_digests,
    encode_header,
    encode_prologue,
    encode_toc,
)
from casemate.image.fuse import fuse_available
from casemate.image.keys import derive_content_key, wrap_content_key
from casemate.image.mounts import start_mount
from casemate.image.payload import lay_out
from casemate.image.reader import open_image
from casemate.image.seal import SealedImageInfo
from casemate.image.tree import EntryKind, TreeEntry, normalised
from casemate.image.ways import OpenChoice
from casemate.types import Secret, sha256, sha384

_GIB = 1 << 30
_ROUNDS = 3
_RANDOM = ((4096, 60_000), (65536, 8_000))
_READERS = (1, 8)


def rows(
    area: str, folder: Path, source: Path, extracted: Path, info: SealedImageInfo, key: Secret
) -> Iterator[Row]:
    """Measure a mount of an image whose one file is ``source``, of 1 GiB, on a disk.

    ``extracted`` is the same in memory, as extraction would leave it.
    """
    if (reason := fuse_available()) is not None:
        print(f"    nothing can be mounted: {reason}", file=sys.stderr)
        return
    folder = folder / "mounts"
    folder.mkdir()
    for what, image in (("1 GiB", info.path), ("64 GiB (sparse)", _sparse(folder, key))):
        yield _first_byte(area, what, image, key, folder / "first")
    yield from _sequential_and_random(area, folder, source, extracted, info, key)


def _sequential_and_random(
    area: str, folder: Path, source: Path, extracted: Path, info: SealedImageInfo, key: Secret
) -> Iterator[Row]:
    ways = [OpenChoice.EROFS, OpenChoice.FUSE]
    if (reason := _no_erofs(info, key, folder / "mnt")) is not None:
        print(f"    nothing can be mounted through EROFS: {reason}", file=sys.stderr)
        del ways[0]
    read = {way: _sequential(info, key, folder / "mnt", way) for way in ways}
    plain = [_warm(path) for path in (source, extracted)]
    peer = None
    if (missing := Gocryptfs.missing()) is not None:
        print(f"    not measured against gocryptfs: {missing}", file=sys.stderr)
    else:
        peer = Gocryptfs(folder)
        peer.take(source)
    encrypted = [] if peer is None else _peers_sequential(peer)
    for way, (cold, warm, _) in read.items():
        name = f"mounted through {way.name}, sequential"
        if not encrypted:
            yield limited(area, f"{name}, cold", cold, "GB/s")
        else:
            against, best = f"gocryptfs ({max(encrypted):.2f} GB/s)", max(encrypted)
            yield compared(
                area, f"{name}, cold", cold, "GB/s", against=against, reference=best, least=2.0
            )
        # The aim is for what large files get by themselves.
        aims = (0.9 if way is ways[0] else None), None
        places = "on the disk, in the page cache", "extracted to memory"
        for rate, where, least in zip(plain, places, aims, strict=True):
            yield compared(
                area, f"{name}, warm", warm, "GB/s",
                against=f"the plain file {where} ({rate:.2f} GB/s)", reference=rate, least=least,
            )  # fmt: skip
    for block, count in _RANDOM:
        for readers in _READERS:
            yield from _random(area, folder, info, key, peer, ways, block, count, readers)
    for way, (_, _, memory) in read.items():
        name = f"resident memory of the mount through {way.name}, after all was read"
        yield limited(area, name, memory, "MiB", at_most=64)


def _sequential(
    info: SealedImageInfo, key: Secret, mountpoint: Path, way: OpenChoice
) -> tuple[float, float, float]:
    """The best rates of cold and of warm reading, GB/s, and the most memory, MiB."""
    cold: list[float] = []
    warm: list[float] = []
    memory: list[float] = []
    for _ in range(_ROUNDS):
        fetch_memory(_GIB + _GIB // 4)  # for the page cache
        with _served(info, key, mountpoint, way) as server:
            cold.append(_rate(mountpoint / "model"))
            # As often as the plain files: the kernel sorts its pages on the second reading.
            warm.extend(_rate(mountpoint / "model") for _ in range(_ROUNDS))
            memory.append(_resident(server))
    return max(cold), max(warm), max(memory)


def _peers_sequential(peer: Gocryptfs) -> list[float]:
    rates = []
    for _ in range(_ROUNDS):
        fetch_memory(_GIB + _GIB // 4)
        with peer.mounted("-ro") as mountpoint:
            rates.append(_rate(mountpoint / "model"))
    return rates


def _random(
    area: str, folder: Path, info: SealedImageInfo, key: Secret, peer: Gocryptfs | None,
    ways: Sequence[OpenChoice], block: int, count: int, readers: int,
) -> Iterator[Row]:  # fmt: skip
    ours: dict[OpenChoice, list[float]] = {way: [] for way in ways}
    theirs = []
    for _ in range(_ROUNDS):
        for way in ways:
            with _served(info, key, folder / "mnt", way):
                rate = read_at_random(folder / "mnt" / "model", block, readers, count)
                ours[way].append(rate)
        if peer is not None:
            with peer.mounted("-ro") as mountpoint:
                theirs.append(read_at_random(mountpoint / "model", block, readers, count))
    for way, rates in ours.items():
        what = f"random {block >> 10} KiB, {readers} reader{'s' * (readers > 1)}"
        name = f"mounted through {way.name}, {what}"
        if not theirs:
            yield limited(area, name, max(rates), "1/s")
            continue
        against, reference = f"gocryptfs ({max(theirs):,.0f}/s)", max(theirs)
        least = 1.0 if way is OpenChoice.FUSE else None
        yield compared(
            area, name, max(rates), "1/s", against=against, reference=reference, least=least
        )


def _no_erofs(info: SealedImageInfo, key: Secret, mountpoint: Path) -> str | None:
    mountpoint.mkdir()
    with open_image(info.path, key, info.id) as image:
        try:
            start_mount(image, mountpoint, OpenChoice.EROFS).stop()
        except UnavailableError as error:
            return error.got
    return None


def _warm(path: Path) -> float:
    read_whole(path)
    return max(_rate(path) for _ in range(_ROUNDS))


def _rate(path: Path) -> float:
    start = time.perf_counter()
    read_whole(path)
    return path.stat().st_size / (time.perf_counter() - start) / 1e9


def _first_byte(area: str, what: str, path: Path, key: Secret, mountpoint: Path) -> Row:
    """From nothing to the first byte of a file: image opened, mounted, file opened and read."""
    mountpoint.mkdir(exist_ok=True)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        with open_image(path, key) as image:
            mount = start_mount(image, mountpoint, OpenChoice.MOUNT)
            descriptor = os.open(mountpoint / "model", os.O_RDONLY)
            os.pread(descriptor, 1, 0)
            times.append(time.perf_counter() - start)
            os.close(descriptor)
            mount.stop()
    taken = 1000 * statistics.median(times)
    return limited(area, f"mount to first byte, {what}", taken, "ms", at_most=30)


@contextmanager
def _served(info: SealedImageInfo, key: Secret, mountpoint: Path, way: OpenChoice) -> Iterator[int]:
    """A mount served from a child, as the launcher does, anew: nothing is in its page cache."""
    mountpoint.mkdir(exist_ok=True)
    ready, told = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child == 0:
        try:
            with open_image(info.path, key, info.id) as image:
                mount = start_mount(image, mountpoint, way)
                os.write(told, b"1")
                signal.sigwait({signal.SIGTERM})
                mount.stop()
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.close(told)
    os.read(ready, 1)
    os.close(ready)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def _resident(server: int) -> float:
    """MiB of memory that a mount's processes hold: pages they share count once."""
    threads = Path(f"/proc/{server}/task").iterdir()
    children = [pid for one in threads for pid in (one / "children").read_text().split()]
    total = 0
    for process in (str(server), *children):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def _sparse(folder: Path, key: Secret) -> Path:
    """An image of 64 GiB that is a hole but for what opening and the first chunk need.

    Sealing so much would take a minute and the disk; whoever opens it can't tell.
    """
    entry = TreeEntry(path="model", kind=EntryKind.FILE, mode=0o644, size=64 * _GIB)
    layout = lay_out(normalised([entry]))
    toc = encode_toc(layout.toc())
    sizes = {"payload_size": layout.size, "toc_size": len(toc)}
    content = derive_content_key(key, content_digest=sha256(b"sparse"), **sizes)
    cipher, data = AESGCM(content.value.reveal()), content.associated_data(**sizes)
    first = layout.contents[0] // CHUNK_SIZE
    parts = {first: bytes(CHUNK_SIZE), -(-layout.size // CHUNK_SIZE): toc}
    draft = Header(
        salt=content.salt, key_commitment=content.commitment, tags_digest=sha384(b""), **sizes
    )
    tags, path = bytearray(TAG_SIZE * draft.chunks), folder / "sparse.sealed"
    with path.open("wb") as file:
        file.truncate(draft.file_size)
        for index, plain in parts.items():
            sealed = cipher.encrypt(index.to_bytes(12, "big"), plain, data)
            os.pwrite(file.fileno(), sealed[:-TAG_SIZE], draft.chunk_span(index)[0])
            tags[TAG_SIZE * index : TAG_SIZE * (index + 1)] = sealed[-TAG_SIZE:]
        table = block_digests(tags)
        os.pwrite(file.fileno(), tags + table, draft.tags_start)
        header = Header(
            salt=content.salt, key_commitment=content.commitment, tags_digest=sha384(table), **sizes
        )
        prologue = Prologue(header=encode_header(header), slot=wrap_content_key(content, key))
        os.pwrite(file.fileno(), encode_prologue(prologue), 0)
    assert path.stat().st_size >= PAYLOAD_START + 64 * _GIB
    return path
