"""Mount a sealed image through whichever of the kernel's file systems suits it and is allowed."""

from __future__ import annotations

import logging
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.image.erofs_mount import ErofsMount
from casemate.image.fuse import FuseMount, OnError
from casemate.image.mounted_image import MountedImage
from casemate.image.overlay import WritableMount
from casemate.image.reader import SealedImage
from casemate.image.tree import EntryKind
from casemate.image.ways import OpenChoice

_LARGE = 16 << 20
_LOG = logging.getLogger(__name__)


def start_mount(
    image: SealedImage,
    folder: Path,
    choice: OpenChoice,
    *,
    writable: bool = False,
    on_error: OnError | None = None,
) -> MountedImage:
    """Mount an image.

    Args:
        image: an open image; it must stay open until the mount is stopped.
        folder: an existing directory.
        choice: a file system to insist on; where it names none, EROFS for large files, else FUSE.
        writable: above it, have a layer in memory that takes changes.
        on_error: told, from other threads, of every error that made a read fail.

    Raises:
        UnavailableError: ``image.mount``, ``image.erofs``, ``image.overlay`` where this machine or
            this process may not; then nothing is left mounted.
    """
    if writable:
        lower = ErofsMount if choice is OpenChoice.EROFS else FuseMount
        return _started(WritableMount(image, folder, on_error=on_error, lower=lower))
    if choice is OpenChoice.EROFS or (choice is not OpenChoice.FUSE and of_large_files(image)):
        try:
            return _started(ErofsMount(image, folder, on_error=on_error))
        except UnavailableError as error:
            if choice is OpenChoice.EROFS:
                raise
            _LOG.info("%s is mounted through FUSE: %s", image.path, error.got)
    return _started(FuseMount(image, folder, on_error=on_error))


def _started(mount: MountedImage) -> MountedImage:
    mount.start()
    return mount


def of_large_files(image: SealedImage) -> bool:
    """Whether half of the content is in files that are read in large pieces, as models are."""
    sizes = [entry.size for entry in image if entry.kind is EntryKind.FILE]
    return 0 < sum(sizes) <= 2 * sum(size for size in sizes if size >= _LARGE)
