"""AMD SEV-SNP attestation reports, versions 2 to 5.

Source: AMD, "SEV Secure Nested Paging Firmware ABI Specification" (56860), revision 1.58, table
"ATTESTATION_REPORT"; "Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface
Specification" (57230) for TCB_VERSION of family 1Ah.
"""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import ByteReader
from casemate.errors import MalformedError
from casemate.types import ReportData

REPORT_SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
CHIP_ID_SIZE = 64
_ECDSA_P384_SHA384 = 1
_SCALAR = 72  # bytes of R and S, little-endian
_MIN_VERSION, _MAX_VERSION = 2, 5
_WITH_CPUID = 3
_WITH_MITIGATIONS = 5
_TURIN_FAMILY = 0x1A

_DEBUG, _MIGRATION, _SINGLE_SOCKET, _SMT = 19, 18, 20, 16
_RESERVED_ONE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbVersion:
    """Security versions of the firmware's parts.

    Args:
        fmc: firmware microcontroller; None before Turin.
        bootloader: of the secure processor.
        tee: of its operating system.
        snp: of the SNP firmware.
        microcode: lowest of all cores.
    """

    fmc: int | None
    bootloader: int
    tee: int
    snp: int
    microcode: int

    def parts(self) -> dict[str, int]:
        """The parts by name; ``fmc`` only where there is one."""
        named = {
            "fmc": self.fmc,
            "bootloader": self.bootloader,
            "tee": self.tee,
            "snp": self.snp,
            "microcode": self.microcode,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReport:
    """A report, every field under AMD's name; integers are little-endian in the report.

    Args:
        version: of the layout, 2 to 5.
        guest_svn: security version of the guest's identity block.
        policy: the guest policy, as launched.
        family_id, image_id: 16 bytes each, from the identity block.
        vmpl: privilege level that asked, 0 to 3; 0xFFFFFFFF where the host asked.
        current_tcb, reported_tcb, committed_tcb, launch_tcb: raw TCB_VERSION of the platform.
        platform_info: flags of the platform.
        author_key_en: whether an author key was used.
        mask_chip_key: whether the chip's key was masked.
        signing_key: 0 VCEK, 1 VLEK.
        report_data: what the guest bound.
        measurement: SHA-384 of the initial memory.
        host_data: 32 bytes that the host gave at launch.
        id_key_digest, author_key_digest: SHA-384 of the keys, or zeros.
        report_id, report_id_ma: 32 bytes each.
        cpuid_fam_id, cpuid_mod_id, cpuid_step: of the processor; None before version 3.
        chip_id: 64 bytes, or zeros where masked.
        current_build, current_minor, current_major: firmware version; committed likewise.
        launch_mit_vector, current_mit_vector: mitigations; None before version 5.
        signed: the bytes that the signature covers.
        signature_r, signature_s: ECDSA on P-384.
    """

    version: int
    guest_svn: int
    policy: int
    family_id: bytes
    image_id: bytes
    vmpl: int
    current_tcb: int
    platform_info: int
    author_key_en: bool
    mask_chip_key: bool
    signing_key: int
    report_data: ReportData
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: int
    cpuid_fam_id: int | None
    cpuid_mod_id: int | None
    cpuid_step: int | None
    chip_id: bytes
    committed_tcb: int
    current_build: int
    current_minor: int
    current_major: int
    committed_build: int
    committed_minor: int
    committed_major: int
    launch_tcb: int
    launch_mit_vector: int | None
    current_mit_vector: int | None
    signed: bytes
    signature_r: int
    signature_s: int

    @property
    def debug(self) -> bool:
        """Whether the guest policy lets the host debug the guest."""
        return bool(self.policy >> _DEBUG & 1)

    @property
    def migration_agent(self) -> bool:
        """Whether the guest policy allows a migration agent."""
        return bool(self.policy >> _MIGRATION & 1)

    @property
    def smt_allowed(self) -> bool:
        """Whether the guest policy allows simultaneous multithreading."""
        return bool(self.policy >> _SMT & 1)

    @property
    def single_socket(self) -> bool:
        """Whether the guest policy demands a single socket."""
        return bool(self.policy >> _SINGLE_SOCKET & 1)

    @property
    def abi(self) -> tuple[int, int]:
        """The least ABI version that the guest policy demands: major, minor."""
        return self.policy >> 8 & 0xFF, self.policy & 0xFF


def parse_snp_report(data: bytes) -> SnpReport:
    """Parse a report.

    Args:
        data: 1184 bytes, as the firmware or configfs-tsm's ``outblob`` gives them.

    Raises:
        MalformedError: wrong length, version, algorithm or signer; reserved bits that are set.

    Does not check: the signature, nor any value (`casemate.verify.snp`). Bytes after R and S are
        unsigned; they must be zero here.
    """
    if len(data) != REPORT_SIZE:
        raise _malformed("length", f"{REPORT_SIZE} bytes", f"{len(data)} bytes")
    r = ByteReader(data, what="SNP report")
    version = r.uint(4, "version")
    if not _MIN_VERSION <= version <= _MAX_VERSION:
        raise _malformed("version", f"{_MIN_VERSION} to {_MAX_VERSION}", str(version))
    guest_svn = r.uint(4, "guest_svn")
    policy = r.uint(8, "policy")
    if not policy >> _RESERVED_ONE & 1:
        raise _malformed("policy", "bit 17 set", f"{policy:#x}")
    family_id, image_id = r.take(16, "family_id"), r.take(16, "image_id")
    vmpl = r.uint(4, "vmpl")
    algorithm = r.uint(4, "signature_algo")
    if algorithm != _ECDSA_P384_SHA384:
        raise _malformed("signature_algo", "1 (ECDSA P-384 with SHA-384)", str(algorithm))
    current_tcb, platform_info = r.uint(8, "current_tcb"), r.uint(8, "platform_info")
    flags = r.uint(4, "flags")
    signing_key = flags >> 2 & 7
    if flags >> 5 or signing_key not in (0, 1):
        raise _malformed("signing_key", "0 (VCEK) or 1 (VLEK), reserved bits zero", f"{flags:#x}")
    r.zeros(4, "reserved")
    report_data = ReportData(r.take(64, "report_data"))
    measurement, host_data = r.take(48, "measurement"), r.take(32, "host_data")
    id_key_digest, author_key_digest = r.take(48, "id_key_digest"), r.take(48, "author_key_digest")
    report_id, report_id_ma = r.take(32, "report_id"), r.take(32, "report_id_ma")
    reported_tcb = r.uint(8, "reported_tcb")
    cpuid: tuple[int | None, int | None, int | None] = (None, None, None)
    if version >= _WITH_CPUID:
        cpuid = r.uint(1, "cpuid_fam_id"), r.uint(1, "cpuid_mod_id"), r.uint(1, "cpuid_step")
        r.zeros(21, "reserved")
    else:
        r.zeros(24, "reserved")
    chip_id = r.take(CHIP_ID_SIZE, "chip_id")
    committed_tcb = r.uint(8, "committed_tcb")
    current = tuple(r.uint(1, f"current_{name}") for name in ("build", "minor", "major"))
    r.zeros(1, "reserved")
    committed = tuple(r.uint(1, f"committed_{name}") for name in ("build", "minor", "major"))
    r.zeros(1, "reserved")
    launch_tcb = r.uint(8, "launch_tcb")
    mitigations: tuple[int | None, int | None] = (None, None)
    if version >= _WITH_MITIGATIONS:
        mitigations = r.uint(8, "launch_mit_vector"), r.uint(8, "current_mit_vector")
        r.zeros(152, "reserved")
    else:
        r.zeros(168, "reserved")
    signature_r, signature_s = r.uint(_SCALAR, "signature R"), r.uint(_SCALAR, "signature S")
    r.zeros(368, "reserved after the signature")
    r.finish()
    return SnpReport(
        version=version, guest_svn=guest_svn, policy=policy, family_id=family_id,
        image_id=image_id, vmpl=vmpl, current_tcb=current_tcb, platform_info=platform_info,
        author_key_en=bool(flags & 1), mask_chip_key=bool(flags >> 1 & 1),
        signing_key=signing_key, report_data=report_data, measurement=measurement,
        host_data=host_data, id_key_digest=id_key_digest, author_key_digest=author_key_digest,
        report_id=report_id, report_id_ma=report_id_ma, reported_tcb=reported_tcb,
        cpuid_fam_id=cpuid[0], cpuid_mod_id=cpuid[1], cpuid_step=cpuid[2], chip_id=chip_id,
        committed_tcb=committed_tcb, current_build=current[0], current_minor=current[1],
        current_major=current[2], committed_build=committed[0], committed_minor=committed[1],
        committed_major=committed[2], launch_tcb=launch_tcb, launch_mit_vector=mitigations[0],
        current_mit_vector=mitigations[1], signed=data[:SIGNED_SIZE], signature_r=signature_r,
        signature_s=signature_s,
    )  # fmt: skip


def parse_tcb_version(raw: int, *, turin: bool) -> TcbVersion:
    """Take TCB_VERSION apart.

    Args:
        raw: the 64 bits.
        turin: whether the processor is of family 1Ah, which lays them out differently.

    Raises:
        MalformedError: reserved bytes that are set.
    """
    parts = raw.to_bytes(8, "little")
    if turin:
        reserved, fmc = parts[4:7], parts[0]
        bootloader, tee, snp = parts[1:4]
        tcb = TcbVersion(fmc=fmc, bootloader=bootloader, tee=tee, snp=snp, microcode=parts[7])
    else:
        reserved = parts[2:6]
        tcb = TcbVersion(
            fmc=None, bootloader=parts[0], tee=parts[1], snp=parts[6], microcode=parts[7]
        )
    if any(reserved):
        raise _malformed("TCB_VERSION", "reserved bytes of zero", f"{raw:016x}")
    return tcb


def product_of(report: SnpReport) -> str | None:
    """The product line by family and model: Milan, Genoa or Turin; None before version 3.

    Raises:
        MalformedError: a processor that isn't known.
    """
    if report.cpuid_fam_id is None or report.cpuid_mod_id is None:
        return None
    family, model = report.cpuid_fam_id, report.cpuid_mod_id
    if family == 0x19 and model <= 0x0F:
        return "Milan"
    if family == 0x19 and (0x10 <= model <= 0x1F or 0xA0 <= model <= 0xAF):
        return "Genoa"
    if family == _TURIN_FAMILY and model <= 0x1F:
        return "Turin"
    raise _malformed("cpuid", "Milan, Genoa or Turin", f"family {family:#x}, model {model:#x}")


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "snp.malformed",
        f"the SNP report has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
