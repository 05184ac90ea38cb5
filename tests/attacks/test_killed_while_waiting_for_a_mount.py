"""Whoever serves or uses a mount is killed at the worst moment: all of it must end.

The kernel lets nobody go who waits for an answer that somebody has begun to work on, not when
killed either, until it comes or the descriptor through which it was taken is closed. So neither
who waits nor what who waits has open may be what keeps that descriptor open.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.launches import descendants, gone_in_time
from tests.support.trees import CHUNK, KEY, file, varied

from casemate.image.fuse import fuse_available
from casemate.image.fuse_servers import LATE_REQUESTS_END
from casemate.image.mounting import MNT_DETACH, MNT_FORCE, MS_BIND, mount, umount
from casemate.image.seal import seal

_REASON = fuse_available()
pytestmark = pytest.mark.skipif(_REASON is not None, reason=f"no mount here: {_REASON}")

needs_storing = pytest.mark.skipif(
    not LATE_REQUESTS_END.exists(), reason="nothing is stored: this kernel lets requests wait"
)

CONTENT = varied(20 * CHUNK)
TREE = (file("a", CONTENT), file("slow", b"1"))

_START = """
import os, signal, sys, threading, time
from pathlib import Path
from casemate.image.fuse import FuseMount
from casemate.image.fuse_tree import ImageTree
from casemate.image.reader import open_image
from casemate.types import Secret

CHUNK = 65536
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
folder = Path(sys.argv[2])

def say(line):
    os.write(1, line + b"\\n")
"""

_ASKS_ITSELF = """
class Slow(ImageTree):
    def child(self, node, name):
        if name == b"slow":
            say(b"taken")
            time.sleep(1000)
        return super().child(node, name)

with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    with FuseMount(image, folder, tree=Slow(image)):
        (folder / "slow").stat()
"""

# Eight small reads make what they decrypted be stored. While the last of them is answered, a page
# of the first chunk is asked for, and locked; whoever stores then waits for that page.
_STORES = """
class Slow(ImageTree):
    def read(self, node, room, offset):
        if offset == 7 * CHUNK:
            say(b"the last of eight")
            time.sleep(0.5)
        if offset == 8192:
            time.sleep(0.5)
            say(b"taken")
            time.sleep(1000)
        if offset == 12 * CHUNK:
            say(b"busy")
            time.sleep(1000)
        return super().read(node, room, offset)

with open_image(Path(sys.argv[1]), Secret(bytes(range(32)))) as image:
    with FuseMount(image, folder, servers=1, tree=Slow(image)) as mount:
        say(b"ready")
        mount.wait()
"""

_IMPATIENT = _STORES.replace("servers=1", "servers=1, patience=15")

# The server is busy with another request when that page is asked for: nobody takes this one.
_STOPS = _STORES.replace("mount.wait()", "signal.sigwait({signal.SIGTERM})")

# As the launcher does when its keeper was killed.
_ENDS_EVERYBODY = (
    "from casemate.launcher import linux\nlinux.adopt_orphans()\nkeeper = os.fork()\nif keeper:\n"
    "    signal.sigwait({signal.SIGTERM})\n    os.kill(keeper, signal.SIGKILL)\n"
    "    linux.end_every_child()\n    sys.exit()\n" + _STORES
)


@contextmanager
def program(text: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program with a mount of an image on ``tmp_path/mnt``; whatever happens, it ends."""
    info = seal(TREE, KEY, tmp_path / "image")
    folder = tmp_path / "mnt"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _START + text, str(info.path), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            with contextlib.suppress(OSError):  # force ends the connection: nobody waits any more
                umount(folder, MNT_FORCE | MNT_DETACH)


def says(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == line + "\n"


@pytest.mark.parametrize("victim", ["who mounted", "a server"])
def test_a_process_that_waits_for_its_own_mount(tmp_path: Path, victim: str) -> None:
    with program(_ASKS_ITSELF, tmp_path) as process:
        says(process, "taken")
        ours = (process.pid, *descendants(process.pid))
        for pid in ours[:1] if victim == "who mounted" else ours[2:]:
            os.kill(pid, signal.SIGKILL)
        assert gone_in_time(ours, 10)


@needs_storing
@pytest.mark.parametrize("victim", ["who mounted", "a server"])
def test_a_server_that_stores_what_nobody_asked_for(tmp_path: Path, victim: str) -> None:
    with program(_STORES, tmp_path) as process, contextlib.ExitStack() as readers:
        says(process, "ready")
        with (tmp_path / "mnt" / "a").open("rb", buffering=0) as mounted:
            os.posix_fadvise(mounted.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for chunk in range(7):
                os.pread(mounted.fileno(), 4096, chunk * CHUNK)
        one = readers.enter_context(reader(tmp_path / "mnt" / "a", 7 * CHUNK))
        says(process, "the last of eight")
        other = readers.enter_context(reader(tmp_path / "mnt" / "a", 8192))
        says(process, "taken")
        ours = (process.pid, *descendants(process.pid))
        assert waits_for_the_kernel(ours), "nobody stores: this doesn't test what it means to"
        mounter, _standby, server = ours
        os.kill(mounter if victim == "who mounted" else server, signal.SIGKILL)
        assert gone_in_time(ours, 10)
        one.wait(5)
        other.wait(5)  # with an error, or with what was stored


@contextmanager
def stored_into_what_is_asked_for(
    process: subprocess.Popen[str], tmp_path: Path
) -> Iterator[tuple[int, ...]]:
    """Who serves the mount of `process`, while one waits for a request that nobody has taken."""
    says(process, "ready")
    other = tmp_path / "other"  # another name, through which whatever hangs can be ended
    other.mkdir()
    mount(str(tmp_path / "mnt"), other, None, MS_BIND)
    mounted = os.open(tmp_path / "mnt" / "a", os.O_RDONLY)
    try:
        os.posix_fadvise(mounted, 0, 0, os.POSIX_FADV_RANDOM)
        for chunk in range(7):
            os.pread(mounted, 4096, chunk * CHUNK)
        for offset in (7 * CHUNK, 12 * CHUNK, 8192):
            os.posix_fadvise(mounted, offset, 4096, os.POSIX_FADV_WILLNEED)  # without a wait
        says(process, "the last of eight")
        says(process, "busy")
        ours = (process.pid, *descendants(process.pid))
        assert waits_for_the_kernel(ours), "nobody stores: this doesn't test what it means to"
        yield ours
    finally:
        umount(other, MNT_FORCE | MNT_DETACH)
        with contextlib.suppress(OSError):  # the mount is gone
            os.close(mounted)


@needs_storing
def test_unmounted_by_somebody_else_and_stopped_while_something_is_stored(tmp_path: Path) -> None:
    """The file is still open, so it is still asked for; and the mount has no name any more."""
    with (
        program(_STOPS, tmp_path) as process,
        stored_into_what_is_asked_for(process, tmp_path) as ours,
    ):
        umount(tmp_path / "mnt", MNT_DETACH)
        process.terminate()
        assert gone_in_time(ours, 10), "who stops waits for who stores"


@needs_storing
def test_everybody_is_killed_at_once_while_something_is_stored(tmp_path: Path) -> None:
    """As a container is. Nobody is left but the kernel, which looks every 15 seconds."""
    with (
        program(_IMPATIENT, tmp_path) as process,
        stored_into_what_is_asked_for(process, tmp_path) as ours,
    ):
        for pid in ours[1:] + ours[:1]:
            os.kill(pid, signal.SIGKILL)
        assert gone_in_time(ours, 50), "a server waits for ever"


@needs_storing
def test_everybody_is_ended_by_a_launcher_while_something_is_stored(tmp_path: Path) -> None:
    with (
        program(_ENDS_EVERYBODY, tmp_path) as process,
        stored_into_what_is_asked_for(process, tmp_path) as ours,
    ):
        process.terminate()
        assert gone_in_time(ours, 10), "the launcher waits for a server"


@contextmanager
def reader(path: Path, offset: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that reads one page."""
    text = (
        "import os, sys; mounted = os.open(sys.argv[1], os.O_RDONLY);"
        "os.posix_fadvise(mounted, 0, 0, os.POSIX_FADV_RANDOM);"
        "os.pread(mounted, 4096, int(sys.argv[2]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", text, str(path), str(offset)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def waits_for_the_kernel(pids: tuple[int, ...]) -> bool:
    """Whether a thread of theirs comes to wait for what no signal ends."""
    for _ in range(200):
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    if (thread / "stat").read_text().rsplit(")", 1)[1].split()[0] == "D":
                        return True
        time.sleep(0.02)
    return False
