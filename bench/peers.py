"""Other programs that do the like, and how long work takes: what figures are put beside."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 262144


def openssl_rate(processes: int = 1) -> float:
    """Bytes a second of AES-256-GCM by ``openssl speed``, the best of three short rounds."""
    command = ["openssl", "speed", "-mr", "-evp", "aes-256-gcm", "-bytes", str(BLOCK)]
    command += ["-seconds", "1", *(["-multi", str(processes)] if processes > 1 else [])]
    rates = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lines = [line for line in done.stdout.splitlines() if line.startswith("+F:")]
        rates.append(float(lines[-1].split(":")[-1]))
    return max(rates)


def best(
    *works: Callable[[], object], rounds: int = 3, before: Callable[[], object] | None = None
) -> list[float]:
    """Each work's shortest time in seconds; they take turns, for others share the machine.

    Args:
        works: what to measure.
        rounds: how many turns each gets.
        before: done before each turn, and not measured.
    """
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for work, taken in zip(works, times, strict=True):
            if before is not None:
                before()
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return [min(taken) for taken in times]


def fetch_memory(size: int) -> None:
    """See to it that so many bytes of free memory are the machine's own.

    A virtual machine gives free memory back to its host; to get it again takes one to three
    seconds a GiB, which would be in the time of whoever writes a file first. In large pages, for
    those are what it gives back, and what page caches take.
    """
    with mmap.mmap(-1, size) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        memory[:: mmap.PAGESIZE] = bytes(-(-size // mmap.PAGESIZE))


def fill(path: Path, size: int) -> None:
    """Bytes that don't compress, cheaply."""
    block = os.urandom(min(size, 1 << 20))
    with path.open("wb") as file:
        for start in range(0, size, len(block)):
            file.write(block[: size - start])


def read_whole(path: Path) -> None:
    """Read a file from its start to its end."""
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def read_at_random(path: Path, block: int, readers: int, count: int) -> float:
    """Reads a second: ``count`` blocks in all, by so many processes at once."""
    blocks = path.stat().st_size // block

    def one(seed: int) -> None:
        chance, descriptor = random.Random(seed), os.open(path, os.O_RDONLY)
        for _ in range(count // readers):
            os.pread(descriptor, block, chance.randrange(blocks) * block)

    start = time.perf_counter()
    children = []
    for seed in range(readers):
        child = os.fork()
        if child == 0:
            try:
                one(seed)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return count / (time.perf_counter() - start)


class Gocryptfs:
    """A gocryptfs file system in a folder; its key derivation, turned down, isn't measured."""

    def __init__(self, folder: Path) -> None:
        self.cipher, self._password = folder / "gocryptfs", folder / "password"
        self.mountpoint = folder / "gocryptfs-mnt"
        self.cipher.mkdir()
        self.mountpoint.mkdir()
        self._password.write_text("bench\n")
        self._run("-init", "-scryptn", "10", "--", str(self.cipher))

    @staticmethod
    def missing() -> str | None:
        """Why it can't be measured here, or None."""
        for program in ("gocryptfs", "fusermount", "umount"):
            if shutil.which(program) is None:
                return f"{program} isn't installed"
        return None if Path("/dev/fuse").exists() else "no /dev/fuse"

    @contextmanager
    def mounted(self, *options: str) -> Iterator[Path]:
        """Mounted anew, so that nothing is in its page cache."""
        self._run(*options, "--", str(self.cipher), str(self.mountpoint))
        try:
            yield self.mountpoint
        finally:
            subprocess.run(["umount", str(self.mountpoint)], check=True)

    def empty(self) -> None:
        """Remove what was encrypted, while it isn't mounted."""
        for path in self.cipher.iterdir():
            if not path.name.startswith("gocryptfs."):
                path.unlink()

    def take(self, source: Path) -> None:
        """Encrypt a file as its only one."""
        with self.mounted() as mountpoint:
            with contextlib.suppress(FileNotFoundError):
                (mountpoint / "model").unlink()
            shutil.copyfile(source, mountpoint / "model")

    def _run(self, *arguments: str) -> None:
        command = ["gocryptfs", "-q", "-nosyslog", "-passfile", str(self._password), *arguments]
        # Not to a pipe: the daemon that serves the mount would hold it open.
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def age_encrypt(source: Path, destination: Path, recipient: str) -> None:
    """Encrypt a file with age."""
    subprocess.run(["age", "-r", recipient, "-o", str(destination), str(source)], check=True)


def age_recipient(folder: Path) -> str | None:
    """A recipient for age, or None where age isn't installed."""
    if shutil.which("age-keygen") is None:
        return None
    key = folder / "age-key"
    subprocess.run(["age-keygen", "-o", str(key)], capture_output=True, check=True)
    lines = key.read_text().splitlines()
    return next(line.split()[-1] for line in lines if "public key" in line)
