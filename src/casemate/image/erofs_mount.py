"""Mount a sealed image so that the kernel's own file system reads it (docs/adr/0021).

FUSE serves one file, a device whose content is computed (``casemate.image.erofs``) or decrypted
when it is asked for; the kernel makes a block device of it and mounts that.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.image.erofs import BLOCK, erofs_device, why_not
from casemate.image.fuse import FuseMount, OnError
from casemate.image.fuse_tree import DEVICE_NAME, DeviceTree
from casemate.image.fuse_wire import MAX_READ
from casemate.image.loop import LoopDevice
from casemate.image.mounted_image import MountedImage, wait_for_another
from casemate.image.mounting import (
    MNT_DETACH,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    mount,
    umount,
)
from casemate.image.nodes import Nodes
from casemate.image.reader import SealedImage


class ErofsMount(MountedImage):
    """A sealed image, mounted through EROFS.

    The FUSE mount lies below it, on the same mountpoint.

    Args:
        image: an open image; it must stay open until :meth:`stop`.
        mountpoint: an existing directory.
        on_error: as ``FuseMount`` has it.
    """

    through = "EROFS"

    def __init__(
        self, image: SealedImage, mountpoint: Path, *, on_error: OnError | None = None
    ) -> None:
        self._image = image
        self._mountpoint = mountpoint
        self._on_error = on_error
        self._mounts = contextlib.ExitStack()
        self._device = 0
        self._below: FuseMount | None = None

    def start(self) -> None:
        """Mount. Returns once the tree is there.

        Raises:
            UnavailableError: ``image.mount`` where FUSE can't be mounted, ``image.erofs`` where the
                rest can't; then nothing is left mounted.
        """
        entries = tuple(self._image)
        if (reason := why_not(entries)) is not None:
            raise _no_erofs(self._mountpoint, reason)
        tree = DeviceTree(self._image, erofs_device(Nodes(entries)))
        with contextlib.ExitStack() as mounts:
            below = FuseMount(self._image, self._mountpoint, on_error=self._on_error, tree=tree)
            mounts.enter_context(below)
            try:
                self._mount_device()
                mounts.callback(self._unmount)
                self._device = self._mountpoint.stat().st_dev
            except OSError as error:
                raise _no_erofs(self._mountpoint, error.strerror or str(error)) from error
            self._below = below
            self._mounts = mounts.pop_all()

    def stop(self) -> None:
        """Unmount, also where files in it are still open: what isn't cached is an error then."""
        self._mounts.close()

    def wait(self) -> None:
        """Return when the mount is gone, whoever unmounted it, or nobody serves it any more."""
        if self._below is not None:
            wait_for_another(self._mountpoint, self._device, self._below)

    def is_served(self) -> bool:
        """Whether anybody answers for it."""
        return self._below is not None and self._below.is_served()

    def _mount_device(self) -> None:
        file = os.open(self._mountpoint / DEVICE_NAME, os.O_RDONLY | os.O_CLOEXEC)
        try:
            loop = LoopDevice(file, block=BLOCK, read_ahead=MAX_READ)
        finally:
            os.close(file)
        try:
            flags = MS_RDONLY | MS_NOSUID | MS_NODEV
            mount(loop.path, self._mountpoint, "erofs", flags)
        finally:
            loop.close()  # the mount keeps it

    def _unmount(self) -> None:
        with contextlib.suppress(OSError):  # somebody else was first
            if self._mountpoint.stat().st_dev == self._device:
                umount(self._mountpoint, MNT_DETACH)


def _no_erofs(place: Path, got: str) -> UnavailableError:
    return UnavailableError(
        "image.erofs",
        f"nothing can be mounted through EROFS on {place}",
        field=str(place),
        expected="a kernel with EROFS, a loop device, and root's right to mount outside of user "
        "namespaces",
        got=got,
        remedy="Mount it through FUSE alone: --open mount, and --through auto of casemate image "
        "mount, take whichever the machine allows.",
    )
