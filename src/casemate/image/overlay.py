"""A sealed image that is mounted, and above it a layer in memory that takes every change.

The image stays as it was, and the changes are gone with the mount.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.image.erofs_mount import ErofsMount
from casemate.image.fuse import FuseMount, OnError
from casemate.image.mounted_image import MountedImage, wait_for_another
from casemate.image.mounting import MNT_DETACH, MS_NODEV, MS_NOSUID, mount, umount
from casemate.image.reader import SealedImage

_FLAGS = MS_NOSUID | MS_NODEV
_ALL_IDS = (1 << 32) - 1  # so many has the user namespace of the machine itself


def mount_overlay(base: Path, merged: Path) -> None:
    """Mount the tree ``base/lower`` on ``merged``, with a layer in ``base`` that takes changes.

    Args:
        base: in memory; gets the folders ``upper`` and ``work``.
        merged: an existing folder.

    Raises:
        UnavailableError: ``image.overlay`` where the kernel doesn't allow it.
    """
    for name in ("upper", "work"):
        (base / name).mkdir()
        (base / name).chmod(0o755)
    descriptor = os.open(base, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    here = f"/proc/self/fd/{descriptor}"  # a path may have commas and colons
    options = f"lowerdir={here}/lower,upperdir={here}/upper,workdir={here}/work"
    if _in_user_namespace():
        options += ",userxattr"  # the usual attributes are the machine's root's to write
    try:
        mount("casemate", merged, "overlay", _FLAGS, options)
    except OSError as error:
        raise _no_overlay(merged, error) from error
    finally:
        os.close(descriptor)


class WritableMount(MountedImage):
    """A sealed image, mounted, that can be written to.

    Nothing lies beside the mountpoint: memory is mounted on it, in that memory the image, and
    above both what is to be seen.

    Args:
        image: an open image; it must stay open until :meth:`stop`.
        mountpoint: an existing directory.
        on_error: as `FuseMount` has it.
        lower: how the image itself is mounted.
    """

    def __init__(
        self,
        image: SealedImage,
        mountpoint: Path,
        *,
        on_error: OnError | None = None,
        lower: type[FuseMount | ErofsMount] = FuseMount,
    ) -> None:
        self._image = image
        self._mountpoint = Path(os.path.realpath(mountpoint))
        self._on_error = on_error
        self._lower = lower
        self.through = f"{lower.through}, below a layer for changes,"
        self._mounts = contextlib.ExitStack()
        self._device = 0
        self._below: FuseMount | ErofsMount | None = None

    def start(self) -> None:
        """Mount. Returns once the tree is there.

        Raises:
            UnavailableError: ``image.mount``, ``image.overlay`` where this machine or this process
                may not; then nothing is left mounted.
        """
        place = self._mountpoint
        with contextlib.ExitStack() as mounts:
            try:
                mount("casemate", place, "tmpfs", _FLAGS, "mode=0700,size=90%")
            except OSError as error:
                raise _no_overlay(place, error) from error
            mounts.callback(_away, place)
            (place / "lower").mkdir()
            self._below = self._lower(self._image, place / "lower", on_error=self._on_error)
            mounts.enter_context(self._below)
            mount_overlay(place, place)
            mounts.callback(_away, place)
            self._device = place.stat().st_dev
            self._mounts = mounts.pop_all()

    def stop(self) -> None:
        """Unmount, also where files in it are still open: they give errors from then on."""
        self._mounts.close()

    def wait(self) -> None:
        """Return when the mount is gone, whoever unmounted it, or nobody serves it any more."""
        if self._below is not None:
            wait_for_another(self._mountpoint, self._device, self._below)

    def is_served(self) -> bool:
        """Whether anybody answers for it."""
        return self._below is not None and self._below.is_served()


def _away(place: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else was first
        umount(place, MNT_DETACH)


def _in_user_namespace() -> bool:
    """Whether root, as this process knows it, isn't the machine's."""
    try:
        lines = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return sum(int(line.split()[2]) for line in lines) < _ALL_IDS


def _no_overlay(place: Path, error: OSError) -> UnavailableError:
    return UnavailableError(
        "image.overlay",
        f"no layer for changes can be mounted on {place}",
        field=str(place),
        expected="a kernel with overlayfs, and the right to mount (root, or a user and mount "
        "namespace)",
        got=error.strerror or str(error),
        remedy="Mount it without --writable, or extract it to memory, where it can be changed.",
    )
