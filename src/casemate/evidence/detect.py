"""Which TEE's evidence some bytes are, by their form alone."""

from __future__ import annotations

import base64
import binascii
import re

from casemate.encoding import decode_json
from casemate.encoding.jose import COMPACT, decode_claims, parse_jws
from casemate.errors import MalformedError
from casemate.evidence.ear import FAMILY
from casemate.evidence.envelope import Tee
from casemate.evidence.snp import REPORT_SIZE

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{64,}={0,2}\s*\Z", re.ASCII)
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_MAX_SIZE = 8 * 1024 * 1024

RATLS = "ratls"
"""Not a TEE: a certificate that carries one's evidence."""


def unwrap(data: bytes) -> bytes:
    """Evidence as bytes, where it came as base64 text; a token without white space; else as is."""
    if len(data) > _MAX_SIZE:
        raise MalformedError(
            "evidence.too-large", "the evidence is too large", field="evidence",
            expected=f"at most {_MAX_SIZE} bytes", got=f"{len(data)} bytes",
        )  # fmt: skip
    if COMPACT.match(data):
        return data.strip()
    if not _BASE64.match(data):
        return data
    text = data.strip().rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return data


def detect(data: bytes) -> str:
    """Name the kind of evidence: a `Tee`, or `RATLS`.

    Args:
        data: the evidence, unwrapped.

    Raises:
        MalformedError: ``evidence.unknown``.
    """
    if data.startswith((b"-----BEGIN CERTIFICATE", b"\x30\x82", b"\x30\x83")):
        return RATLS
    if data.lstrip()[:1] == b"{":
        return _of_json(data)
    if COMPACT.match(data):
        return _of_token(data)
    if len(data) == REPORT_SIZE and data[0] in (2, 3, 4, 5) and not any(data[1:4]):
        return Tee.SNP
    if data[12:28] == _INTEL_QE:
        return Tee.TDX if data[4:8] == b"\x81\0\0\0" else Tee.SGX
    if data.startswith(b"\x11\xe0"):
        return Tee.NVIDIA
    if data.startswith((b"\xd9\x01\x8f", b"\xd9\x03\x8b")):
        return Tee.CCA
    if data.startswith((b"\x84\x44\xa1\x01\x38\x22", b"\xd2\x84\x44\xa1\x01\x38\x22")):
        return Tee.NITRO
    if data.startswith(b"\xa2\x66report"):
        return Tee.SIMULATED
    if data.startswith(b"\xa2\x67members"):
        return Tee.COMPOSITE
    raise _unknown(data[:8].hex() or "nothing")


def _of_json(data: bytes) -> str:
    value = decode_json(data, what="evidence", max_size=_MAX_SIZE)
    keys = set(value) if isinstance(value, dict) else set()
    if {"hcl_report", "td_quote"} <= keys:
        return Tee.AZURE_TDX
    if "hcl_report" in keys:
        return Tee.AZURE_SNP
    if {"ak_public", "tpm_quote"} <= keys:
        return Tee.TPM
    raise _unknown(f"JSON with {', '.join(sorted(keys))[:120] or 'nothing'}")


def _of_token(data: bytes) -> str:
    claims = decode_claims(parse_jws(data, what="token", max_size=_MAX_SIZE), what="token")
    if "x-ms-attestation-type" in claims:
        return Tee.MAA
    if str(claims.get("eat_profile")).startswith(FAMILY):
        return Tee.EAR
    raise _unknown(f"a token with {', '.join(sorted(claims))[:120] or 'nothing'}")


def _unknown(got: str) -> MalformedError:
    return MalformedError(
        "evidence.unknown",
        "this isn't evidence of any kind that is known",
        field="evidence",
        expected="a quote, a report, a document, a token, or an attested certificate",
        got=got,
        remedy="Name the kind, if you know it: --tee.",
    )
