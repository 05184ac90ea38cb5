"""A picture, as the classifier takes it."""

from __future__ import annotations

import enum
import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from casemate.errors import MalformedError

SIDE: Final = 224
_SHORT_SIDE: Final = 256
_MAX_BYTES: Final = 64 << 20
_MAX_PIXELS: Final = 80_000_000  # less than where Pillow only warns
_MAX_ASPECT: Final = 20


class Resize(enum.Enum):
    """How a picture becomes a square.

    ``CROP`` keeps the proportions: the short side is scaled to 256 and the middle cut out, as the
    classifier was measured. ``STRETCH`` squeezes everything in, as the reference's client does.
    """

    CROP = "crop"
    STRETCH = "stretch"


def prepare_picture(content: bytes, resize: Resize = Resize.CROP) -> npt.NDArray[np.float32]:
    """Read a picture and make the model's input of it.

    Args:
        content: the file, in any format that Pillow reads.
        resize: how it becomes a square.

    Returns:
        float32, ``[1, 224, 224, 3]``, RGB from 0 to 1.

    Raises:
        MalformedError: ``client.picture``.
    """
    if len(content) > _MAX_BYTES:
        raise _malformed("the picture's file is too large", f"at most {_MAX_BYTES} bytes")
    try:
        with Image.open(io.BytesIO(content)) as picture:
            # Before anything is decoded: a small file can stand for a picture of any size.
            if picture.width * picture.height > _MAX_PIXELS:
                raise _malformed("the picture is too large", f"at most {_MAX_PIXELS} pixels")
            square = _square(picture, resize)
    except MalformedError:
        raise
    except UnidentifiedImageError as error:
        raise _malformed("not a picture", "JPEG, PNG or another format of pictures") from error
    except (
        OSError, ValueError, SyntaxError, EOFError,
        Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise _malformed("the picture can't be read", "an intact picture") from error
    return (np.asarray(square, dtype=np.float32) / np.float32(255))[None]


def _square(picture: Image.Image, resize: Resize) -> Image.Image:
    bicubic = Image.Resampling.BICUBIC
    if resize is Resize.STRETCH:
        return picture.convert("RGB").resize((SIDE, SIDE), bicubic)
    if max(picture.size) > _MAX_ASPECT * min(picture.size):
        raise _malformed("the picture is too narrow to cut a square", f"1:{_MAX_ASPECT} at most")
    upright = ImageOps.exif_transpose(picture).convert("RGB")
    scale = _SHORT_SIDE / min(upright.size)
    scaled = upright.resize((round(upright.width * scale), round(upright.height * scale)), bicubic)
    left, top = (scaled.width - SIDE) // 2, (scaled.height - SIDE) // 2
    return scaled.crop((left, top, left + SIDE, top + SIDE))


def _malformed(message: str, expected: str) -> MalformedError:
    return MalformedError("client.picture", message, field="image", expected=expected)
