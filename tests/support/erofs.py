"""Whether images can be mounted through EROFS here, tried once; and the devices of such mounts."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

import pytest
from tests.support.trees import KEY, file

from casemate.errors import UnavailableError
from casemate.image.erofs_mount import ErofsMount
from casemate.image.reader import open_image
from casemate.image.seal import seal


@functools.cache
def why_no_erofs() -> str:
    """The reason; empty where they can."""
    with tempfile.TemporaryDirectory() as name:
        info = seal([file("a", b"1")], KEY, Path(name) / "image")
        place = Path(name) / "mnt"
        place.mkdir()
        try:
            with open_image(info.path, KEY) as image, ErofsMount(image, place):
                return ""
        except UnavailableError as error:
            return error.got or str(error)


needs_erofs = pytest.mark.skipif(
    bool(why_no_erofs()), reason=f"no mount through EROFS here: {why_no_erofs()}"
)


def loop_devices() -> dict[str, str]:
    """Of each loop device that is in use, the place that tells it, and its file's path."""
    found = {}
    for each in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # just gone
            found[str(each)] = each.read_text().rstrip()
    return found
