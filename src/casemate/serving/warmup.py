"""Requests that run before a version serves. Specified in ``specs/served-model.md``, "Warm-up"."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from google.protobuf.message import DecodeError

from casemate.errors import MalformedError
from casemate.serving.fields import MAX_FIELDS, check_fields
from casemate.serving.wire import tensorflow_serving_pb2 as wire

WARMUP_FILE: Final = Path("assets.extra") / "tf_serving_warmup_requests"
MAX_RECORDS: Final = 1000
MAX_RECORD_BYTES: Final = 64 << 20
_POLYNOMIAL: Final = 0x82F63B78  # CRC-32C, reflected


def read_warmup(path: Path) -> Iterator[wire.PredictionLog]:
    """The records of a file; none where there is no file.

    Raises:
        MalformedError: ``serving.warmup``.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    except OSError as error:
        raise _malformed("file", "a file that can be read", error.strerror or "none") from error
    with file:
        yield from read_records(file)


def read_records(file: BinaryIO) -> Iterator[wire.PredictionLog]:
    """The records of a stream of TFRecords.

    Raises:
        MalformedError: ``serving.warmup``.

    Source: TensorFlow, ``core/lib/io/record_writer.h``.
    """
    table = _crc_table()
    for number in range(MAX_RECORDS + 1):
        header = file.read(12)
        if not header:
            return
        if number == MAX_RECORDS:
            raise _malformed("records", f"at most {MAX_RECORDS}", "more")
        if len(header) != 12:
            raise _malformed("length", "12 bytes", f"{len(header)} bytes")
        length, check = struct.unpack("<QI", header)
        if _masked(header[:8], table) != check or length > MAX_RECORD_BYTES:
            raise _malformed("length", "a length with its check", "another check, or too long")
        content = file.read(length + 4)
        if len(content) != length + 4:
            raise _malformed("data", f"{length + 4} bytes", f"{len(content)} bytes")
        if struct.pack("<I", _masked(content[:-4], table)) != content[-4:]:
            raise _malformed("data", "data with its check", "another check")
        try:
            check_fields(content[:-4], wire.PredictionLog, MAX_FIELDS)
            yield wire.PredictionLog.FromString(content[:-4])
        except DecodeError as error:
            raise _malformed("data", "a PredictionLog", "other bytes") from error


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


def _masked(content: bytes, table: list[int]) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return (crc >> 15 | crc << 17) + 0xA282EAD8 & 0xFFFFFFFF


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "serving.warmup",
        "the warm-up requests are damaged",
        field=field,
        expected=expected,
        got=got,
    )
