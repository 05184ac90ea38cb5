"""A picture, as the classifier takes it."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from casemate.client import Resize, prepare_picture
from casemate.errors import MalformedError


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def halves(width, height):
    """Left half red, right half blue."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (width // 2, 0, width, height))
    return picture


@pytest.mark.parametrize("resize", list(Resize))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_every_picture_becomes_rgb_between_0_and_1(resize, mode):
    picture = Image.new("RGB", (300, 260), (255, 255, 255)).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"

    pixels = prepare_picture(encoded(picture, form), resize)

    assert pixels.shape == (1, 224, 224, 3)
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0.95
    assert pixels.max() == 1


def test_crop_keeps_the_middle_and_stretch_keeps_all():
    picture = Image.new("RGB", (1000, 250), (0, 255, 0))
    picture.paste((255, 0, 0), (0, 0, 200, 250))  # outside the middle

    cropped = prepare_picture(encoded(picture), Resize.CROP)
    stretched = prepare_picture(encoded(picture), Resize.STRETCH)

    assert cropped[..., 0].max() == 0
    assert stretched[0, 100, 10, 0] == 1


def test_channels_and_sides_stay_where_they_are():
    pixels = prepare_picture(encoded(halves(256, 256)))

    assert pixels[0, 112, 10].tolist() == [1, 0, 0]
    assert pixels[0, 112, 210].tolist() == [0, 0, 1]


def test_a_photo_taken_sideways_is_set_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by 90 degrees
    pixels = prepare_picture(encoded(halves(256, 256), "JPEG", exif=exif, quality=95))

    assert pixels[0, 10, 112, 0] > 0.9
    assert pixels[0, 210, 112, 2] > 0.9


@pytest.mark.parametrize(
    "content",
    [b"", b"not a picture", encoded(halves(64, 64))[:-40], encoded(Image.new("L", (2000, 10)))],
    ids=["empty", "text", "cut", "narrow"],
)
def test_what_cannot_be_used_is_malformed(content):
    with pytest.raises(MalformedError) as caught:
        prepare_picture(content)
    assert caught.value.field == "image"


@pytest.mark.parametrize("side", [9_000, 60_000])
def test_a_small_file_that_would_fill_the_memory_is_refused(side):
    with pytest.raises(MalformedError, match=r"too large|can't be read"):
        prepare_picture(_blank_png(side))


def _blank_png(side):
    """A picture that is almost nothing as a file: one bit a pixel, all the same."""
    rows = zlib.compress(bytes((side + 7) // 8 + 1) * side)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(kind + body))
        content += struct.pack(">I", len(body)) + kind + body + check
    return content


@settings(max_examples=60)
@given(st.binary(max_size=40), st.integers(0, 300))
def test_a_damaged_picture_is_a_picture_or_malformed(noise, position):
    whole = encoded(halves(32, 32))
    try:
        pixels = prepare_picture(whole[:position] + noise + whole[position + len(noise) :])
    except MalformedError:
        return
    assert pixels.shape == (1, 224, 224, 3)
