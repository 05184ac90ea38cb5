"""An AMD machine of our own, and reports of guests on it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from casemate_testkit.pki import DAY, NOW, Authority, Options, make, tlv, tlv_integer

_AMD = "1.3.6.1.4.1.3704.1"
CHIP = bytes(range(64))
_CPUID = {"Milan": b"\x19\x01\x01", "Genoa": b"\x19\x11\x01", "Turin": b"\x1a\x02\x01"}
_PARTS = ("3.1", "3.2", "3.3", "3.8")
_TURIN_ID_SIZE = 8


@dataclass(eq=False)
class SnpPlatform:
    """An AMD machine of our own: its chain, and reports of guests on it.

    Args:
        tcb: bootloader, tee, snp, microcode that the leaf is derived for.
        until: the end of its certificates.
        vlek: whether a cloud provider's key signs, and not the chip's.
        product: the line: Milan, Genoa or Turin.
        fmc: the part of the TCB that Turin alone has.
    """

    tcb: tuple[int, int, int, int] = (4, 0, 24, 219)
    chip: bytes = CHIP
    until: datetime.datetime = NOW + 365 * DAY
    root: Authority | None = None
    leaf_options: Options = field(default_factory=Options)
    vlek: bool = False
    product: str = "Milan"
    fmc: int = 1

    def __post_init__(self) -> None:
        if self.product == "Turin":
            self.chip = self.chip[:_TURIN_ID_SIZE]
        self.ark = self.root or make(f"ARK-{self.product}", end=self.until)
        issuer = f"SEV-VLEK-{self.product}" if self.vlek else f"SEV-{self.product}"
        self.ask = self.ark.issue(issuer, path_length=0, end=self.until)
        extensions = {
            f"{_AMD}.2": tlv(0x16, f"{self.product}-B0".encode()),
            **{f"{_AMD}.{n}": tlv_integer(v) for n, v in zip(_PARTS, self.tcb, strict=True)},
        }
        if self.product == "Turin":
            extensions[f"{_AMD}.3.9"] = tlv_integer(self.fmc)
        if self.vlek:
            extensions[f"{_AMD}.5"] = tlv(0x16, b"CN=cloud.example")
        else:
            extensions[f"{_AMD}.4"] = self.chip
        options: Options = {"ca": False, "extensions": extensions, "end": self.until}
        options.update(self.leaf_options)
        self.vcek = self.ask.issue("SEV-VLEK" if self.vlek else "SEV-VCEK", **options)

    @property
    def certificates(self) -> list[x509.Certificate]:
        """ARK, VCEK and ASK, in no helpful order."""
        return [each.certificate for each in (self.ark, self.vcek, self.ask)]

    def revocation_lists(
        self, start: datetime.datetime = NOW - DAY, end: datetime.datetime = NOW + DAY
    ) -> list[x509.CertificateRevocationList]:
        """A list of the root's, on which nobody is."""
        return [self.ark.revocation_list(start=start, end=end)]

    def report(self, signer: Authority | None = None, **fields: bytes) -> bytes:
        """A report, genuine unless ``signer`` or ``fields`` make it otherwise.

        Args:
            signer: whose key signs instead of the leaf's.
            fields: bytes by offset: ``x050`` is the report data.
        """
        bootloader, tee, snp, microcode = self.tcb
        tcb = bytes((bootloader, tee, 0, 0, 0, 0, snp, microcode))
        if self.product == "Turin":
            tcb = bytes((self.fmc, bootloader, tee, snp, 0, 0, 0, microcode))
        version = 5 if self.product == "Turin" else 3
        values = {
            0x000: version.to_bytes(4, "little"),
            0x008: (0x3001F).to_bytes(8, "little"),
            0x034: (1).to_bytes(4, "little"),
            0x048: (self.vlek << 2).to_bytes(4, "little"),
            0x050: b"\x11" * 64,
            0x090: b"\x22" * 48,
            0x180: tcb,
            0x188: _CPUID[self.product],
            0x1A0: self.chip,
            0x1E0: tcb,
            0x1F0: tcb,
        }
        content = bytearray(0x2A0)
        for offset, value in {**values, **{int(k[1:], 16): v for k, v in fields.items()}}.items():
            content[offset : offset + len(value)] = value
        key = (signer or self.vcek).key
        r, s = decode_dss_signature(key.sign(bytes(content), ec.ECDSA(hashes.SHA384())))
        return bytes(content) + r.to_bytes(72, "little") + s.to_bytes(72, "little") + bytes(368)
