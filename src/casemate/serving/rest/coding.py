"""Bodies that come compressed: gzip, which TensorFlow Serving takes, and deflate.

Unpacked piece by piece, so that whoever counts the pieces knows of a body that grows without end
before the memory is taken.

Source: RFC 9110, section 8.4.1 (content codings); RFC 1950 and 1952 (the formats).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from casemate.errors import MalformedError

PIECE_BYTES: Final = 1 << 20
# What zlib calls the formats. "deflate" means zlib's here, as RFC 9110 has it.
_FORMATS: Final = {b"gzip": zlib.MAX_WBITS + 16, b"x-gzip": zlib.MAX_WBITS + 16,
                   b"deflate": zlib.MAX_WBITS}  # fmt: skip


class Unpacker:
    """Unpacks one body.

    Args:
        coding: the value of ``Content-Encoding``.

    Raises:
        KeyError: where it is no coding that is known here.
    """

    def __init__(self, coding: bytes) -> None:
        self._inflater = zlib.decompressobj(_FORMATS[coding.strip().lower()])

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What more of the body unpacks to, in pieces of at most ``PIECE_BYTES``.

        Raises:
            MalformedError: ``serving.coding``.
        """
        while data:
            if self._inflater.eof:
                raise _malformed("nothing after its end")
            try:
                piece = self._inflater.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise _malformed("what its Content-Encoding says") from error
            yield piece
            data = self._inflater.unconsumed_tail or self._inflater.unused_data

    def end(self) -> None:
        """The body has ended.

        Raises:
            MalformedError: ``serving.coding`` where it is cut short.
        """
        if not self._inflater.eof:
            raise _malformed("all of it")


def _malformed(expected: str) -> MalformedError:
    return MalformedError(
        "serving.coding", "the compressed body can't be unpacked", expected=expected
    )
