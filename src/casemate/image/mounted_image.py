"""What every mount of an image has, through whichever file system."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

_POLL_SECONDS = 0.5


class MountedImage(ABC):
    """A sealed image, mounted. A context manager: mounted inside, gone after.

    Attributes:
        through: the file system, for people.
    """

    through: str

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Mount. Returns once the tree is there; an error leaves nothing mounted."""

    @abstractmethod
    def stop(self) -> None:
        """Unmount, also where files in it are still open: what isn't cached is an error then."""

    @abstractmethod
    def wait(self) -> None:
        """Return when the mount is gone, whoever unmounted it, or nobody serves it any more."""

    @abstractmethod
    def is_served(self) -> bool:
        """Whether anybody answers for it."""


def wait_for_another(mountpoint: Path, device: int, below: MountedImage) -> None:
    """Return when something else than the file system ``device`` is seen on a mountpoint.

    Args:
        mountpoint: where to look.
        device: its number.
        below: what that file system reads from; if nobody serves it any more, this returns too.
    """
    while below.is_served() and mountpoint.stat().st_dev == device:
        time.sleep(_POLL_SECONDS)
