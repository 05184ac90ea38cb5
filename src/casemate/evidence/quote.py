"""Intel's DCAP quotes, versions 3, 4 and 5: of SGX enclaves and of TDX trust domains.

Source: Intel, "SGX ECDSA Quote Library API" (quote version 3, appendix A.4) and "TDX DCAP Quoting
Library API" (versions 4 and 5, appendix A.3). All integers are little-endian.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import ByteReader
from casemate.errors import MalformedError
from casemate.types import ReportData

MAX_SIZE = 64 * 1024
_ECDSA_P256 = 2
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_SGX, _TDX = 0x00, 0x81
_SGX_SIZE, _TD10_SIZE, _TD15_SIZE = 384, 584, 648
_BODY_TYPES = {1: _SGX_SIZE, 2: _TD10_SIZE, 3: _TD15_SIZE}
_MAX_SIGNATURE = 32 * 1024

_SGX_DEBUG, _TD_DEBUG, _SEPT_VE_DISABLE = 1, 0, 28


@dataclass(frozen=True, slots=True, kw_only=True)
class SgxReport:
    """The report of an SGX enclave, every field under Intel's name.

    Args:
        cpu_svn: 16 bytes.
        misc_select: 32 bits.
        isv_ext_prod_id: 16 bytes.
        attributes: 16 bytes: flags, then XFRM.
        mr_enclave, mr_signer: 32 bytes.
        config_id: 64 bytes.
        isv_prod_id, isv_svn, config_svn: 16 bits.
        isv_family_id: 16 bytes.
        report_data: what the enclave bound.
    """

    cpu_svn: bytes
    misc_select: int
    isv_ext_prod_id: bytes
    attributes: bytes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes
    isv_prod_id: int
    isv_svn: int
    config_svn: int
    isv_family_id: bytes
    report_data: ReportData

    @property
    def debug(self) -> bool:
        """Whether the enclave could be looked into."""
        return bool(self.attributes[0] >> _SGX_DEBUG & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The report of a trust domain, every field under Intel's name.

    Args:
        tee_tcb_svn: 16 bytes; ``tee_tcb_svn2`` after an update of the TDX module, else None.
        mr_seam, mr_signer_seam: of the TDX module, 48 bytes.
        seam_attributes, td_attributes, xfam: 8 bytes.
        mr_td: initial measurement, 48 bytes.
        mr_config_id, mr_owner, mr_owner_config: 48 bytes that the host gave.
        rtmr: the four run-time registers, 48 bytes each.
        mr_service_td: of service TDs, None before version 1.5.
        report_data: what the trust domain bound.
    """

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr: tuple[bytes, bytes, bytes, bytes]
    report_data: ReportData
    tee_tcb_svn2: bytes | None
    mr_service_td: bytes | None

    @property
    def debug(self) -> bool:
        """Whether the trust domain could be looked into."""
        return bool(int.from_bytes(self.td_attributes, "little") >> _TD_DEBUG & 1)

    @property
    def sept_ve_disable(self) -> bool:
        """Whether faults in the guest's page tables can't be injected."""
        return bool(int.from_bytes(self.td_attributes, "little") >> _SEPT_VE_DISABLE & 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """A quote.

    Args:
        version: 3, 4 or 5.
        report: of an enclave or a trust domain.
        data: the quote's own bytes, without what follows them.
        signature_start: where its signature data begins in them; it goes to their end.
        tail: how many bytes followed; they mean nothing and are never looked at.
    """

    version: int
    report: SgxReport | TdReport
    data: bytes
    signature_start: int
    tail: int


def parse_quote(data: bytes) -> Quote:
    """Parse a quote.

    Args:
        data: at most 64 KiB. Drivers hand out buffers that are longer than the quote; the quote
            says its own length, and what follows is cut off.

    Raises:
        MalformedError: ``quote.malformed``, ``encoding.*``.

    Does not check: any signature (`casemate.verify.dcap`).
    """
    if len(data) > MAX_SIZE:
        raise _malformed("length", f"at most {MAX_SIZE} bytes", f"{len(data)} bytes")
    r = ByteReader(data, what="quote")
    version = r.uint(2, "version")
    if version not in (3, 4, 5):
        raise _malformed("version", "3, 4 or 5", str(version))
    key_type = r.uint(2, "attestation key type")
    if key_type != _ECDSA_P256:
        raise _malformed("attestation key type", "2 (ECDSA P-256)", str(key_type))
    tee = r.uint(4, "TEE type")
    if tee not in ((_SGX,) if version == 3 else (_SGX, _TDX)):
        raise _malformed("TEE type", "SGX (0), or TDX (0x81) from version 4", f"{tee:#x}")
    r.take(4, "reserved, or QE and PCE SVN")
    vendor = r.take(16, "QE vendor id")
    if vendor != _INTEL_QE:
        raise _malformed("QE vendor id", _INTEL_QE.hex(), vendor.hex())
    r.take(20, "user data")
    size = _body_size(r, version, tee)
    report = _sgx_report(r) if size == _SGX_SIZE else _td_report(r, size)
    signature = r.uint(4, "signature length")
    if not 0 < signature <= _MAX_SIGNATURE:
        raise _malformed("signature length", f"1 to {_MAX_SIGNATURE}", str(signature))
    start = len(data) - r.remaining
    r.take(signature, "signature data")
    return Quote(
        version=version, report=report, data=data[: start + signature], signature_start=start,
        tail=r.remaining,
    )  # fmt: skip


def _body_size(r: ByteReader, version: int, tee: int) -> int:
    if version < 5:
        return _TD10_SIZE if tee == _TDX else _SGX_SIZE
    kind, size = r.uint(2, "body type"), r.uint(4, "body size")
    if _BODY_TYPES.get(kind) != size or (size == _SGX_SIZE) is not (tee == _SGX):
        raise _malformed("body type and size", "those of the TEE type", f"{kind}, {size} bytes")
    return size


def _sgx_report(r: ByteReader) -> SgxReport:
    cpu_svn, misc_select = r.take(16, "cpu_svn"), r.uint(4, "misc_select")
    r.take(12, "reserved")
    isv_ext_prod_id, attributes = r.take(16, "isv_ext_prod_id"), r.take(16, "attributes")
    mr_enclave = r.take(32, "mr_enclave")
    r.take(32, "reserved")
    mr_signer = r.take(32, "mr_signer")
    r.take(32, "reserved")
    config_id = r.take(64, "config_id")
    isv_prod_id, isv_svn, config_svn = (
        r.uint(2, name) for name in ("isv_prod_id", "isv_svn", "config_svn")
    )
    r.take(42, "reserved")
    isv_family_id = r.take(16, "isv_family_id")
    return SgxReport(
        cpu_svn=cpu_svn, misc_select=misc_select, isv_ext_prod_id=isv_ext_prod_id,
        attributes=attributes, mr_enclave=mr_enclave, mr_signer=mr_signer, config_id=config_id,
        isv_prod_id=isv_prod_id, isv_svn=isv_svn, config_svn=config_svn,
        isv_family_id=isv_family_id, report_data=ReportData(r.take(64, "report_data")),
    )  # fmt: skip


def _td_report(r: ByteReader, size: int) -> TdReport:
    tee_tcb_svn = r.take(16, "tee_tcb_svn")
    mr_seam, mr_signer_seam = r.take(48, "mr_seam"), r.take(48, "mr_signer_seam")
    seam_attributes, td_attributes, xfam = (
        r.take(8, name) for name in ("seam_attributes", "td_attributes", "xfam")
    )
    mr_td, mr_config_id, mr_owner, mr_owner_config = (
        r.take(48, name) for name in ("mr_td", "mr_config_id", "mr_owner", "mr_owner_config")
    )
    rtmr = (r.take(48, "rtmr0"), r.take(48, "rtmr1"), r.take(48, "rtmr2"), r.take(48, "rtmr3"))
    report_data = ReportData(r.take(64, "report_data"))
    newer = size == _TD15_SIZE
    return TdReport(
        tee_tcb_svn=tee_tcb_svn, mr_seam=mr_seam, mr_signer_seam=mr_signer_seam,
        seam_attributes=seam_attributes, td_attributes=td_attributes, xfam=xfam, mr_td=mr_td,
        mr_config_id=mr_config_id, mr_owner=mr_owner, mr_owner_config=mr_owner_config,
        rtmr=rtmr, report_data=report_data,
        tee_tcb_svn2=r.take(16, "tee_tcb_svn2") if newer else None,
        mr_service_td=r.take(48, "mr_service_td") if newer else None,
    )  # fmt: skip


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "quote.malformed",
        f"the quote has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
