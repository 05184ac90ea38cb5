"""Tokens of Microsoft Azure Attestation (MAA): what its service says of evidence that it verified.

A token names the kind of evidence in ``x-ms-attestation-type``. That of a virtual machine behind
Azure's paravisor (``azurevm``) has a part of its own, ``x-ms-isolation-tee``, for the hardware; one
without that part attests no TEE. Claims that a customer's attestation policy adds are passed over.

Source: Microsoft Learn, "Azure Attestation": "Claim sets", "Examples of an attestation token",
"EAT profile for TDX".
Does not check: signature, times, issuer (`casemate.verify.maa`).
"""

from __future__ import annotations

import base64
import binascii
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from casemate.encoding import JsonValue, MapReader, decode_hex
from casemate.encoding.jose import Jws, decode_base64url, decode_claims, parse_jws
from casemate.errors import MalformedError
from casemate.types import ReportData, Sha256

MAX_SIZE = 128 * 1024
TYPE = "x-ms-attestation-type"
_LATEST = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC)
_MAX_TEXT = 256
_ISOLATED = "azurevm"
_COMPLIANT = "azure-compliant-cvm"

MaaClaim: TypeAlias = bool | int | str | bytes | Mapping[str, int]

# Each: the name in the token, ours, and the kind: a type, or the length of a byte string in hex.
_SGX: tuple[tuple[str, str, type | int], ...] = (
    ("x-ms-sgx-mrenclave", "measurement", 32),
    ("x-ms-sgx-mrsigner", "mr_signer", 32),
    ("x-ms-sgx-product-id", "isv_prod_id", int),
    ("x-ms-sgx-svn", "isv_svn", int),
    ("x-ms-sgx-is-debuggable", "debug", bool),
)
_SGX_MORE: tuple[tuple[str, str, type | int], ...] = (
    ("x-ms-sgx-report-data", "report_data", 64),
    ("x-ms-sgx-config-id", "config_id", 64),
    ("x-ms-sgx-config-svn", "config_svn", int),
)
_SNP: tuple[tuple[str, str, type | int], ...] = (
    ("x-ms-sevsnpvm-launchmeasurement", "measurement", 48),
    ("x-ms-sevsnpvm-is-debuggable", "debug", bool),
    ("x-ms-sevsnpvm-reportdata", "report_data", 64),
    ("x-ms-sevsnpvm-hostdata", "host_data", 32),
    ("x-ms-sevsnpvm-idkeydigest", "id_key_digest", 48),
    ("x-ms-sevsnpvm-guestsvn", "guest_svn", int),
    ("x-ms-sevsnpvm-vmpl", "vmpl", int),
)
_SNP_MORE: tuple[tuple[str, str, type | int], ...] = (
    ("x-ms-sevsnpvm-authorkeydigest", "author_key_digest", 48),
    ("x-ms-sevsnpvm-familyId", "family_id", 16),
    ("x-ms-sevsnpvm-imageId", "image_id", 16),
    ("x-ms-sevsnpvm-migration-allowed", "migration_agent", bool),
    ("x-ms-sevsnpvm-smt-allowed", "smt_allowed", bool),
)
_SNP_LEVELS = (
    ("bootloader", "x-ms-sevsnpvm-bootloader-svn"),
    ("tee", "x-ms-sevsnpvm-tee-svn"),
    ("snp", "x-ms-sevsnpvm-snpfw-svn"),
    ("microcode", "x-ms-sevsnpvm-microcode-svn"),
)
_TDX: tuple[tuple[str, str, type | int], ...] = (
    ("tdx_mrtd", "measurement", 48),
    ("tdx_td_attributes_debug", "debug", bool),
    ("tdx_report_data", "report_data", 64),
    ("attester_tcb_status", "tcb_status", str),
    *((f"tdx_rtmr{number}", f"rtmr{number}", 48) for number in range(4)),
)
_TDX_MORE: tuple[tuple[str, str, type | int], ...] = (
    ("tdx_td_attributes_septve_disable", "sept_ve_disable", bool),
    ("tdx_mrseam", "mr_seam", 48),
    ("tdx_mrconfigid", "mr_config_id", 48),
    ("tdx_mrowner", "mr_owner", 48),
)
_TYPES = {
    "sgx": ("sgx", _SGX, _SGX_MORE),
    "sgxenclave": ("sgx", _SGX, _SGX_MORE),
    "sevsnpvm": ("snp", _SNP, _SNP_MORE),
    "tdxvm": ("tdx", _TDX, _TDX_MORE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MaaToken:
    """A token, unverified.

    Args:
        jws: signature and what it covers.
        issuer: who says that it made the token: a URL.
        not_before: when it begins to count.
        issued_at: when it was made.
        expires: when it ends.
        hardware: the TEE that vouches: ``sgx``, ``snp`` or ``tdx``.
        report_data: the hardware's, or zeros where the token has none.
        claims: all others, by our names; byte strings decoded.
    """

    jws: Jws
    issuer: str
    not_before: datetime.datetime
    issued_at: datetime.datetime
    expires: datetime.datetime
    hardware: str
    report_data: ReportData
    claims: Mapping[str, MaaClaim]


def parse_maa_token(data: bytes) -> MaaToken:
    """Parse a token.

    Args:
        data: a JWT in compact form, at most 128 KiB.

    Raises:
        MalformedError: ``maa.type`` where it attests no TEE that is known; ``maa.claim``,
            ``encoding.*``.
    """
    jws = parse_jws(data, what="MAA token", max_size=MAX_SIZE)
    top = MapReader(decode_claims(jws, what="MAA token"), what="token")
    kind = top.take(TYPE, str)
    part = top
    if kind == _ISOLATED:
        part = top.take_map("x-ms-isolation-tee")
        inner = part.take(TYPE, str)
    else:
        inner = kind
    if inner not in _TYPES:
        raise _malformed(TYPE, " or ".join(_TYPES), inner[:64])
    hardware, required, optional = _TYPES[inner]
    claims: dict[str, MaaClaim] = {"attestation_type": kind, "hardware": hardware}
    claims |= {name: _claim(part, label, what) for label, name, what in required}
    for label, name, what in optional:
        if label in part.names():
            claims[name] = _claim(part, label, what)
    if hardware == "snp":
        claims["reported_tcb"] = MappingProxyType(
            {name: _number(part, label) for name, label in _SNP_LEVELS}
        )
    claims |= _common(top, part)
    hardware_data = claims.pop("report_data", bytes(ReportData.length))
    assert isinstance(hardware_data, bytes)
    # A measurement's length depends on the hardware, so policies have it as a text of hex digits.
    claims["measurement"] = bytes(_bytes_of(claims, "measurement")).hex()
    return MaaToken(
        jws=jws,
        issuer=top.take("iss", str),
        not_before=_time(top, "nbf"),
        issued_at=_time(top, "iat"),
        expires=_time(top, "exp"),
        hardware=hardware,
        report_data=_bound(kind, hardware_data, claims.get("nonce")),
        claims=MappingProxyType(claims),
    )


def _common(top: MapReader, part: MapReader) -> dict[str, MaaClaim]:
    """What the token says of every kind of evidence."""
    claims: dict[str, MaaClaim] = {}
    if (digest := top.take_optional("x-ms-policy-hash", str)) is not None:
        value = decode_base64url(digest, field="token.x-ms-policy-hash")
        if len(value) != Sha256.length:
            raise _malformed("x-ms-policy-hash", f"{Sha256.length} bytes", f"{len(value)} bytes")
        claims["policy_hash"] = value
    if (status := part.take_optional("x-ms-compliance-status", str)) is not None:
        claims["compliance_status"] = _short("x-ms-compliance-status", status)
    if (nonce := top.take_optional("nonce", str)) is not None:
        claims["nonce"] = nonce.encode()
    machine = _nested(part, "x-ms-runtime", "vm-configuration")
    # Only behind Azure's paravisor are these words the paravisor's; elsewhere the guest chose them.
    if machine is not None and status == _COMPLIANT:
        if (secure := machine.take_optional("secure-boot", bool)) is not None:
            claims["secure_boot"] = secure
        if (identity := machine.take_optional("vmUniqueId", str)) is not None:
            claims["vm_id"] = _short("vmUniqueId", identity)
    client = _nested(top, "x-ms-runtime", "client-payload") if part is not top else None
    if client is not None and (text := client.take_optional("nonce", str)) is not None:
        try:
            claims["nonce"] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _malformed("x-ms-runtime.client-payload.nonce", "base64", "others") from error
    return claims


def _bound(kind: str, hardware: bytes, nonce: MaaClaim | None) -> ReportData:
    """What the attester chose: behind the paravisor the hardware's report data isn't its to choose.

    There it is the nonce, if that has the size of report data or less, filled up with zeros.
    """
    if kind != _ISOLATED:
        return ReportData(hardware)
    chosen = nonce if isinstance(nonce, bytes) and len(nonce) <= ReportData.length else b""
    return ReportData(chosen.ljust(ReportData.length, b"\0"))


def _nested(part: MapReader, *names: str) -> MapReader | None:
    """A map in a map, where both are there; others may have any form."""
    found: MapReader | None = part
    for name in names:
        found = found.take_optional_map(name) if found is not None else None
    return found


def _claim(part: MapReader, label: str, what: type | int) -> MaaClaim:
    if isinstance(what, int):
        return decode_hex(part.take(label, str), field=f"token.{label}", length=what)
    if what is bool:
        return part.take(label, bool)
    if what is str:
        return _short(label, part.take(label, str))
    return _number(part, label)


def _number(part: MapReader, label: str) -> int:
    value = part.take(label, int)
    if not 0 <= value < 2**63:
        raise _malformed(label, "an unsigned integer", str(value)[:32])
    return value


def _short(label: str, value: str) -> str:
    if not 0 < len(value) <= _MAX_TEXT:
        raise _malformed(label, f"1 to {_MAX_TEXT} characters", f"{len(value)}")
    return value


def _bytes_of(claims: Mapping[str, MaaClaim], name: str) -> bytes:
    value = claims[name]
    assert isinstance(value, bytes)
    return value


def _time(top: MapReader, name: str) -> datetime.datetime:
    seconds = top.take(name, int)
    if not 0 <= seconds < _LATEST.timestamp():
        raise _malformed(name, "seconds since 1970", str(seconds)[:32])
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _malformed(label: str, expected: str, got: JsonValue) -> MalformedError:
    return MalformedError(
        "maa.type" if label == TYPE else "maa.claim",
        f"the token's {label} isn't what a token about a TEE has there",
        field=label,
        expected=expected,
        got=str(got),
    )
