"""Azure's confidential VMs: a TPM quote, and the host compatibility layer's report behind it.

The paravisor (HCL) owns the TEE's report and gives the guest a virtual TPM. Its report carries the
hardware's report and a JSON document, the variable data, with the attestation key of that TPM; the
hardware's report data is the SHA-256 of that JSON.

Source: Microsoft, "Azure confidential VMs: guest attestation", the HCL report's layout as published
in the OpenHCL sources (``IgvmAttest``); all integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import ByteReader, MapReader, decode_json
from casemate.errors import MalformedError
from casemate.evidence.tpm import MAX_EVIDENCE, TpmEvidence, decode_bytes, read_tpm_quote

_MAGIC = b"HCLA"
_HEADER_SIZE = 0x20
_HARDWARE_SIZE = 0x4A0
_SHA256 = 1
_SNP, _TDX = 2, 4
_MAX_VARIABLE = 16 * 1024
_MAX_REPORT = 32 * 1024
_VERSION = 1
_KINDS = {_SNP: "snp", _TDX: "tdx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """The paravisor's report.

    Args:
        kind: of the hardware's report: ``snp`` or ``tdx``.
        hardware_report: 1184 bytes: an SNP report, or a TDREPORT and zeros.
        variable_data: the JSON document, as it was hashed.
        ak_modulus, ak_exponent: the RSA attestation key of the virtual TPM.
        secure_boot, tpm_enabled: of the VM's configuration.
        user_data: 64 bytes that the guest chose.
    """

    kind: str
    hardware_report: bytes
    variable_data: bytes
    ak_modulus: int
    ak_exponent: int
    secure_boot: bool
    tpm_enabled: bool
    user_data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureEvidence:
    """What a guest hands out.

    Args:
        hcl: the paravisor's report.
        tpm: the quote; its attestation key is the paravisor's.
        vcek: the chip's certificate, if it came along (SNP).
        td_quote: the TD quote (TDX).
    """

    hcl: HclReport
    tpm: TpmEvidence
    vcek: bytes | None
    td_quote: bytes | None


def parse_azure_evidence(data: bytes) -> AzureEvidence:
    """Parse evidence.

    Args:
        data: JSON with ``version``, ``hcl_report``, ``tpm_quote`` and, by hardware, ``vcek`` or
            ``td_quote``; byte strings in base64 or lower-case hex; at most 256 KiB.

    Raises:
        MalformedError: ``azure.malformed``, ``tpm.malformed``, ``encoding.*``.

    Does not check: any signature or binding (`casemate.verify.azure`).
    """
    top = MapReader(
        decode_json(data, what="Azure evidence", max_size=MAX_EVIDENCE), what="evidence"
    )
    version = top.take("version", int)
    if version != _VERSION:
        raise _malformed("version", str(_VERSION), str(version))
    hcl = parse_hcl_report(decode_bytes(top.take("hcl_report", str), "hcl_report"))
    tpm = read_tpm_quote(top.take_map("tpm_quote"), ak_public=None)
    vcek, td_quote = top.take_optional("vcek", str), top.take_optional("td_quote", str)
    top.finish()
    if (td_quote is None) is not (hcl.kind == "snp"):
        raise _malformed("td_quote", "one where the hardware is TDX, and only there", hcl.kind)
    return AzureEvidence(
        hcl=hcl,
        tpm=tpm,
        vcek=decode_bytes(vcek, "vcek") if vcek is not None else None,
        td_quote=decode_bytes(td_quote, "td_quote") if td_quote is not None else None,
    )


def parse_hcl_report(data: bytes) -> HclReport:
    """Parse the paravisor's report.

    Args:
        data: as read from the TPM's NV index 0x01400001; zeros may follow.

    Raises:
        MalformedError: ``azure.malformed``, ``encoding.*``.
    """
    if len(data) > _MAX_REPORT:
        raise _malformed("hcl_report", f"at most {_MAX_REPORT} bytes", f"{len(data)} bytes")
    r = ByteReader(data, what="HCL report")
    r.expect(_MAGIC, "signature")
    r.take(_HEADER_SIZE - len(_MAGIC), "header")
    hardware = r.take(_HARDWARE_SIZE, "hardware report")
    r.take(8, "data size and version")
    kind, digest = r.uint(4, "report type"), r.uint(4, "report data hash type")
    if kind not in _KINDS:
        raise _malformed("report type", "2 (SNP) or 4 (TDX)", str(kind))
    if digest != _SHA256:
        raise _malformed("report data hash type", "1 (SHA-256)", str(digest))
    size = r.uint(4, "variable data size")
    if size > _MAX_VARIABLE:
        raise _malformed("variable data size", f"at most {_MAX_VARIABLE}", str(size))
    variable = r.take(size, "variable data")
    r.zeros(r.remaining, "rest")
    return _with_variable_data(_KINDS[kind], hardware, variable)


def _with_variable_data(kind: str, hardware: bytes, variable: bytes) -> HclReport:
    top = MapReader(
        decode_json(variable, what="variable data", max_size=_MAX_VARIABLE), what="variable data"
    )
    keys = [MapReader(item, what="keys") for item in top.take_list("keys")]
    mine = [key for key in keys if key.take("kid", str) == "HCLAkPub"]
    if len(mine) != 1 or mine[0].take("kty", str) != "RSA":
        raise _malformed("HCLAkPub", "one RSA key", f"{len(mine)}")
    configuration = top.take_map("vm-configuration")
    user_data = decode_bytes(top.take("user-data", str).lower(), "user-data")
    if len(user_data) != 64:
        raise _malformed("user-data", "64 bytes", f"{len(user_data)} bytes")
    return HclReport(
        kind=kind,
        hardware_report=hardware,
        variable_data=variable,
        ak_modulus=int.from_bytes(decode_bytes(mine[0].take("n", str), "n"), "big"),
        ak_exponent=int.from_bytes(decode_bytes(mine[0].take("e", str), "e"), "big"),
        secure_boot=configuration.take("secure-boot", bool),
        tpm_enabled=configuration.take("tpm-enabled", bool),
        user_data=user_data,
    )


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "azure.malformed",
        f"the Azure evidence has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
