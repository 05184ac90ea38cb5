"""NVIDIA GPU attestation reports: an SPDM 1.1 GET_MEASUREMENTS request and the response to it.

Source: DMTF, DSP0274 "SPDM" 1.1.0, section 10.11; the opaque data's fields as NVIDIA's verifier in
"nvtrust" reads them. Integers are little-endian.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from casemate.encoding import ByteReader
from casemate.errors import MalformedError

MAX_SIZE = 64 * 1024
NONCE_SIZE = 32
_REQUEST_SIZE = 37
_SIGNATURE_SIZE = 96
_VERSION, _REQUEST, _RESPONSE = 0x11, 0xE0, 0x60
_ALL = 0xFF
_DMTF = 1
_MEASUREMENT_SIZE = 48
_MAX_OPAQUE = 1024
_DRIVER_VERSION, _VBIOS_VERSION, _NVDEC0, _FWID = 3, 6, 11, 20
_ENABLED = 0xAA


@dataclass(frozen=True, slots=True, kw_only=True)
class NvidiaReport:
    """A report.

    Args:
        nonce: what the caller had bound: 32 bytes of the request.
        measurements: by SPDM's index, from 1; 48 bytes each.
        driver_version: such as ``550.90.07``.
        vbios_version: such as ``96.00.9F.00.01``.
        fwid: digest of the firmware that holds the key, or None.
        nvdec0_enabled: whether the video decoder runs; its firmware is then measurement 36.
        opaque: every field of the opaque data, by number.
        signed: request and response, without the signature.
        signature: R and S, big-endian, 48 bytes each.
    """

    nonce: bytes
    measurements: Mapping[int, bytes]
    driver_version: str
    vbios_version: str
    fwid: bytes | None
    nvdec0_enabled: bool
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes


def parse_nvidia_report(data: bytes) -> NvidiaReport:
    """Parse a report.

    Args:
        data: request (37 bytes), then response, at most 64 KiB.

    Raises:
        MalformedError: ``nvidia.malformed``, ``encoding.*``.

    Does not check: the signature and the measurements (`casemate.verify.nvidia`).
    """
    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    r = ByteReader(data, what="GPU report")
    r.expect(bytes((_VERSION, _REQUEST)), "request")
    r.take(1, "request attributes")
    r.expect(bytes((_ALL,)), "request: all measurements")
    nonce = r.take(NONCE_SIZE, "nonce")
    r.take(1, "slot")
    r.expect(bytes((_VERSION, _RESPONSE)), "response")
    r.take(2, "response parameters")
    count, length = r.uint(1, "number of measurements"), r.uint(3, "measurements' length")
    measurements = _measurements(r.take(length, "measurements"), count)
    r.take(32, "responder's nonce")
    size = r.uint(2, "opaque length")
    if size > _MAX_OPAQUE:
        raise _malformed("opaque length", f"at most {_MAX_OPAQUE}", str(size))
    opaque = _opaque(r.take(size, "opaque data"))
    signature = r.take(_SIGNATURE_SIZE, "signature")
    r.finish()
    return NvidiaReport(
        nonce=nonce,
        measurements=measurements,
        driver_version=_driver_version(opaque),
        vbios_version=_vbios_version(opaque),
        fwid=opaque.get(_FWID),
        nvdec0_enabled=opaque.get(_NVDEC0) == bytes((_ENABLED,)),
        opaque=opaque,
        signed=data[:-_SIGNATURE_SIZE],
        signature=signature,
    )


def _measurements(data: bytes, count: int) -> Mapping[int, bytes]:
    r = ByteReader(data, what="GPU measurements")
    found: dict[int, bytes] = {}
    for _ in range(count):
        index = r.uint(1, "index")
        r.expect(bytes((_DMTF,)), "measurement specification")
        inner = ByteReader(r.take(r.uint(2, "measurement size"), "measurement"), what="measurement")
        inner.take(1, "value type")
        if inner.uint(2, "value size") != _MEASUREMENT_SIZE or index in found or index == 0:
            raise _malformed(f"measurement {index}", "48 bytes, each index once", "another")
        found[index] = inner.take(_MEASUREMENT_SIZE, "value")
        inner.finish()
    r.finish()
    return MappingProxyType(found)


def _opaque(data: bytes) -> Mapping[int, bytes]:
    r = ByteReader(data, what="GPU opaque data")
    found: dict[int, bytes] = {}
    while r.remaining:
        kind, size = r.uint(2, "field type"), r.uint(2, "field size")
        if kind in found:
            raise _malformed(f"opaque field {kind}", "each field once", "twice")
        found[kind] = r.take(size, f"opaque field {kind}")
    return MappingProxyType(found)


def _driver_version(opaque: Mapping[int, bytes]) -> str:
    value = opaque.get(_DRIVER_VERSION, b"")
    text = value.rstrip(b"\0")
    if not text or not text.replace(b".", b"").isalnum() or not text.isascii():
        raise _malformed("driver version", "digits and dots", value.hex())
    return text.decode("ascii")


def _vbios_version(opaque: Mapping[int, bytes]) -> str:
    value = opaque.get(_VBIOS_VERSION, b"")
    if len(value) != 8:
        raise _malformed("VBIOS version", "8 bytes", f"{len(value)} bytes")
    return ".".join(f"{byte:02X}" for byte in (*reversed(value[:4]), value[4]))


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "nvidia.malformed",
        f"the GPU report has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
