"""The two ways to open a sealed image, and which of them each image of a launch gets. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from casemate.errors import UsageError
from casemate.image.storage import megabytes, require_memory

_NEEDS_EROFS = (
    "a kernel with EROFS, a loop device, /dev/fuse, and root's right to mount outside of user "
    "namespaces"
)
SLACK = 64 << 20  # what else a launch needs: its own processes, and the workload's start


class OpenChoice(StrEnum):
    """How images are to be opened, as somebody asked."""

    AUTO = "auto"
    EXTRACT = "extract"
    MOUNT = "mount"
    EROFS = "erofs"
    FUSE = "fuse"

    @property
    def insists_on_mounting(self) -> bool:
        """Whether nothing else will do: mounting at all, or through one file system."""
        return self in {OpenChoice.MOUNT, OpenChoice.EROFS, OpenChoice.FUSE}


class Way(StrEnum):
    """How an image is opened."""

    EXTRACT = "extract"
    MOUNT = "mount"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An image that is to be opened.

    Args:
        name: for messages.
        size: bytes of memory that its extracted tree takes.
        prefer: the way that suits it where both are open.
    """

    name: str
    size: int
    prefer: Way


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """How an image will be opened.

    Args:
        way: how.
        reason: why not the way that suits it; None where it is that one.
    """

    way: Way
    reason: str | None = None


def plan_ways(
    images: Sequence[Wanted], *, choice: OpenChoice, no_mount: str | None, left: int
) -> tuple[Planned, ...]:
    """Decide for every image at once, before any memory is taken.

    Args:
        images: all that will be open together.
        choice: what somebody insists on.
        no_mount: why nothing can be mounted here; None where it can.
        left: bytes of memory that may be taken.

    Returns:
        One plan for each image, in their order.

    Raises:
        UsageError: ``image.open`` where mounting was insisted on and can't be, ``image.memory``
            where what must be extracted doesn't fit.
    """
    plans = _insisted(images, choice, no_mount) or _automatic(images, no_mount, left)
    extracted = [
        image for image, plan in zip(images, plans, strict=True) if plan.way is Way.EXTRACT
    ]
    if extracted:
        needed = SLACK + sum(image.size for image in extracted)
        require_memory(needed, left, what=", ".join(image.name for image in extracted))
    return plans


def _insisted(
    images: Sequence[Wanted], choice: OpenChoice, no_mount: str | None
) -> tuple[Planned, ...] | None:
    if choice is OpenChoice.EXTRACT:
        return tuple(_planned(image, Way.EXTRACT, "as asked") for image in images)
    if not choice.insists_on_mounting:
        return None
    if no_mount is not None:
        through = " through EROFS" if choice is OpenChoice.EROFS else ""
        raise UsageError(
            "image.open",
            f"nothing can be mounted{through} here: {', '.join(image.name for image in images)}",
            field="--open",
            expected=_NEEDS_EROFS
            if through
            else "/dev/fuse and the right to mount, in a namespace that nobody else sees",
            got=no_mount,
            remedy="Use --open auto, of casemate launch and casemate image open: it then extracts "
            "to memory." + (" --open mount may do, through FUSE." if through else ""),
        )
    return tuple(_planned(image, Way.MOUNT, "as asked") for image in images)


def _automatic(images: Sequence[Wanted], no_mount: str | None, left: int) -> tuple[Planned, ...]:
    """What suits each image, else the other way: a tree that doesn't fit into memory is mounted."""
    if no_mount is not None:
        return tuple(_planned(image, Way.EXTRACT, no_mount) for image in images)
    plans, room = [], left - SLACK
    for image in images:
        if image.prefer is Way.MOUNT:
            plans.append(Planned(way=Way.MOUNT))
        elif image.size <= room:
            room -= image.size
            plans.append(Planned(way=Way.EXTRACT))
        else:
            reason = f"only {megabytes(left)} of memory are left"
            plans.append(Planned(way=Way.MOUNT, reason=reason))
    return tuple(plans)


def _planned(image: Wanted, way: Way, reason: str) -> Planned:
    return Planned(way=way, reason=None if way is image.prefer else reason)
