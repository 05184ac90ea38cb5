"""Reading through a mount, beside gocryptfs and plain files."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.peers import Gocryptfs, read_at_random, read_whole
from bench.rows import Row, compared, limited
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
from casemate.image.fuse import FuseMount, fuse_available
from casemate.image.keys import derive_content_key, wrap_content_key
from casemate.image.payload import lay_out
from casemate.image.reader import open_image
from casemate.image.seal import SealedImageInfo
from casemate.image.tree import EntryKind, TreeEntry, normalised
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
    cold, warm, memory = [], [], []
    for _ in range(_ROUNDS):
        with _served(info, key, folder / "mnt") as server:
            cold.append(_rate(folder / "mnt" / "model"))
            # As often as the plain files below: the kernel sorts its pages on the second reading.
            warm.extend(_rate(folder / "mnt" / "model") for _ in range(_ROUNDS))
            memory.append(_resident(server))
    plain = [_warm(path) for path in (source, extracted)]
    peer = None
    if (missing := Gocryptfs.missing()) is not None:
        print(f"    not measured against gocryptfs: {missing}", file=sys.stderr)
    else:
        peer = Gocryptfs(folder)
        peer.take(source)
    name = "mounted, sequential, cold"
    if peer is None:
        yield limited(area, name, max(cold), "GB/s")
    else:
        rates = []
        for _ in range(_ROUNDS):
            with peer.mounted("-ro") as mountpoint:
                rates.append(_rate(mountpoint / "model"))
        against, reference = f"gocryptfs ({max(rates):.2f} GB/s)", max(rates)
        yield compared(
            area, name, max(cold), "GB/s", against=against, reference=reference, least=2.0
        )
    for rate, where, least in zip(
        plain, ("on the disk, in the page cache", "extracted to memory"), (0.9, None), strict=True
    ):
        yield compared(
            area, "mounted, sequential, warm", max(warm), "GB/s",
            against=f"the plain file {where} ({rate:.2f} GB/s)", reference=rate, least=least,
        )  # fmt: skip
    for block, count in _RANDOM:
        for readers in _READERS:
            yield _random(area, folder, info, key, peer, block, count, readers)
    yield limited(
        area, "resident memory of the mount, after all was read", max(memory), "MiB", at_most=64
    )


def _random(
    area: str, folder: Path, info: SealedImageInfo, key: Secret, peer: Gocryptfs | None,
    block: int, count: int, readers: int,
) -> Row:  # fmt: skip
    name = f"mounted, random {block >> 10} KiB, {readers} reader{'s' * (readers > 1)}"
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        with _served(info, key, folder / "mnt"):
            ours.append(read_at_random(folder / "mnt" / "model", block, readers, count))
        if peer is not None:
            with peer.mounted("-ro") as mountpoint:
                theirs.append(read_at_random(mountpoint / "model", block, readers, count))
    if not theirs:
        return limited(area, name, max(ours), "1/s")
    against = f"gocryptfs ({max(theirs):,.0f}/s)"
    return compared(area, name, max(ours), "1/s", against=against, reference=max(theirs), least=1.0)


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
        with open_image(path, key) as image, FuseMount(image, mountpoint):
            descriptor = os.open(mountpoint / "model", os.O_RDONLY)
            os.pread(descriptor, 1, 0)
            times.append(time.perf_counter() - start)
            os.close(descriptor)
    taken = 1000 * statistics.median(times)
    return limited(area, f"mount to first byte, {what}", taken, "ms", at_most=30)


@contextmanager
def _served(info: SealedImageInfo, key: Secret, mountpoint: Path) -> Iterator[int]:
    """A mount served from a child, as the launcher does, anew: nothing is in its page cache."""
    mountpoint.mkdir(exist_ok=True)
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
    try:
        yield child
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)


def _resident(server: int) -> float:
    """MiB of memory that a mount's processes hold: pages they share count once."""
    helpers = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    total = 0
    for process in (str(server), *helpers):
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
