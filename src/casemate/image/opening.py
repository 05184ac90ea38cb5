"""Open a sealed image in a folder for as long as it is needed, in whichever way is possible."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.image.extract import empty, extract, not_empty, unwritable
from casemate.image.fuse import OnError, fuse_available
from casemate.image.mounts import start_mount
from casemate.image.reader import SealedImage
from casemate.image.storage import (
    extracted_size,
    memory_left,
    require_memory_backed,
    require_no_plain_swap,
)
from casemate.image.ways import OpenChoice, Planned, Wanted, Way, plan_ways
from casemate.image.workers import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An image that is open in a folder.

    Args:
        plan: how, and why.
        through: the file system it is mounted through; empty where it was extracted.
        wait: returns when somebody else has ended a mount; for ever where it was extracted.
    """

    plan: Planned
    through: str = ""
    wait: Callable[[], None]


@contextmanager
def opened_on(
    image: SealedImage,
    folder: Path,
    choice: OpenChoice,
    *,
    allow_disk: bool,
    writable: bool = False,
    on_error: OnError | None = None,
    progress: Progress | None = None,
) -> Iterator[Held]:
    """Within, the image's tree is in ``folder``; afterwards nothing of it is.

    Args:
        image: an open image.
        folder: an empty folder, or a name that is free.
        choice: the way to insist on, or the file system to mount it through.
        allow_disk: accept that decrypted bytes reach a disk.
        writable: have a mount take changes, into memory; an extracted tree does so anyway.
        on_error: told of what goes wrong in a mount.
        progress: of an extraction: called with (bytes done, bytes to do).

    Raises:
        UsageError: ``image.open``, ``image.memory``, ``image.disk``, ``image.swap``,
            ``image.destination``.
        CasemateError: as reading an image does.
    """
    require_no_plain_swap(allow_disk=allow_disk)
    plan = _plan(image, choice, fuse_available())
    with contextlib.ExitStack() as stack:
        if plan.way is Way.MOUNT:
            if _made(folder):
                stack.callback(folder.rmdir)
            try:
                mount = start_mount(image, folder, choice, writable=writable, on_error=on_error)
            except UnavailableError as error:
                if choice.insists_on_mounting:
                    raise
                plan = _plan(image, choice, error.got)  # what only the attempt shows
            else:
                stack.callback(mount.stop)
                yield Held(plan=plan, through=mount.through, wait=mount.wait)
                return
        require_memory_backed(folder, allow_disk=allow_disk)
        made = not os.path.lexists(folder)
        extract(image, folder, progress=progress)
        stack.callback(shutil.rmtree if made else empty, folder)
        yield Held(plan=plan, wait=_wait_for_ever)


def _made(folder: Path) -> bool:
    """Whether the folder was made: else it is there, and empty.

    A mount would hide what is in it; and what is in it may be a mount, which then would end.
    """
    try:
        if not folder.exists():
            folder.mkdir()
            return True
        if any(folder.iterdir()):
            raise not_empty(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    return False


def _plan(image: SealedImage, choice: OpenChoice, no_mount: str | None) -> Planned:
    wanted = Wanted(name=str(image.path), size=extracted_size(image), prefer=Way.MOUNT)
    (plan,) = plan_ways([wanted], choice=choice, no_mount=no_mount, left=memory_left())
    return plan


def _wait_for_ever() -> None:
    while True:
        signal.pause()
