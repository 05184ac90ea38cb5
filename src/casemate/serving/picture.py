"""JPEG and PNG bytes to a model's tensor. Specified in ``specs/served-model.md``.

Imported only where a signature wants pictures: Pillow is an extra.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Final

import numpy as np

from casemate.errors import UsageError
from casemate.serving.dtypes import Array, ElementType
from casemate.serving.signature import Picture
from casemate.serving.status import wrong

try:
    from PIL import Image
except ImportError as error:  # pragma: no cover (an installation without the extra)
    raise UsageError(
        "serving.pictures",
        "a signature wants pictures, and Pillow isn't installed",
        remedy="Install casemate with the extra client, or send tensors.",
    ) from error

MAX_PIXELS: Final = 64 << 20
# Of all pictures of a request: a few bytes may stand for as many pixels as one picture may have.
MAX_PIXELS_IN_ALL: Final = 512 << 20
# A progressive JPEG has about ten. Each costs a pass over the picture, however few its bytes are.
MAX_SCANS: Final = 100
_START_OF_SCAN: Final = b"\xff\xda"
_FORMATS: Final = ("JPEG", "PNG")


def decode_pictures(
    contents: Array,
    picture: Picture,
    element: ElementType,
    name: str,
    *,
    max_bytes: int,
    check: Callable[[], None],
) -> Array:
    """Decode each string to one picture of the model's size.

    Args:
        contents: an object array of bytes, one picture each.
        picture: the size and the values that the model wants.
        element: the model's element type.
        name: the input's name, for errors.
        max_bytes: limit on the array.
        check: called before each picture; raises where nobody waits for it any more.

    Returns:
        An array ``[n, height, width, 3]``.

    Raises:
        MalformedError: ``serving.request`` where one isn't a JPEG or PNG, or is too large.
    """
    most = max_bytes // (picture.height * picture.width * 3 * element.dtype.itemsize)
    if contents.size > most:
        raise wrong(name, f"at most {most} pictures", str(contents.size))
    array = np.empty((contents.size, picture.height, picture.width, 3), element.dtype)
    pixels = MAX_PIXELS_IN_ALL
    for index, content in enumerate(contents.flat):
        check()
        array[index], taken = _decode(content, picture, name, min(pixels, MAX_PIXELS))
        pixels -= taken
    return array


def _decode(content: object, picture: Picture, name: str, most: int) -> tuple[Array, int]:
    """The values, and of how many pixels they were made."""
    data = content if isinstance(content, bytes) else str(content).encode()
    # Compressed data of a JPEG never has these two bytes side by side.
    if data.startswith(b"\xff\xd8") and data.count(_START_OF_SCAN) > MAX_SCANS:
        raise wrong(name, f"a JPEG of at most {MAX_SCANS} scans", "more")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            count = image.width * image.height
            if count > most:
                raise wrong(name, f"at most {most} pixels", f"{image.width}x{image.height}")
            # A JPEG is decoded at a fraction of its size where that is still large enough.
            image.draft("RGB", (picture.width * 2, picture.height * 2))
            pixels = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise wrong(name, "the bytes of a JPEG or PNG", "others") from error
    if picture.crop:
        side = min(pixels.size)
        left, top = (pixels.width - side) // 2, (pixels.height - side) // 2
        pixels = pixels.crop((left, top, left + side, top + side))
    pixels = pixels.resize((picture.width, picture.height), Image.Resampling.BICUBIC)
    values = np.asarray(pixels, np.float32) * np.float32(picture.scale)
    made: Array = (values - np.array(picture.mean, np.float32)) / np.array(picture.std, np.float32)
    return made, count
