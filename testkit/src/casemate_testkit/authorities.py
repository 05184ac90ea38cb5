"""Authorities of our own: chains like the vendors', and evidence that they vouch for."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
_AMD = "1.3.6.1.4.1.3704.1"
CHIP = bytes(range(64))


class Options(TypedDict, total=False):
    """What `make` takes beside a subject and an issuer."""

    ca: bool
    path_length: int | None
    cert_sign: bool
    start: datetime.datetime
    end: datetime.datetime
    extensions: dict[str, bytes] | None
    critical: tuple[str, ...]
    issuer_name: str | None


def name(text: str) -> x509.Name:
    """A name that is a common name alone."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Authority:
    """A key with its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(self, subject: str, **options: Unpack[Options]) -> Authority:
        """Issue a certificate; see `make`."""
        return make(subject, issuer=self, **options)

    def revocation_list(
        self,
        *revoked: x509.Certificate,
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime = NOW + DAY,
    ) -> x509.CertificateRevocationList:
        """A list of this authority's."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(start)
            .next_update(end)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.serial_number)
                .revocation_date(start)
                .build()
            )
        return builder.sign(self.key, hashes.SHA384())


def make(
    subject: str,
    *,
    issuer: Authority | None = None,
    ca: bool = True,
    path_length: int | None = None,
    cert_sign: bool = True,
    start: datetime.datetime = NOW - 365 * DAY,
    end: datetime.datetime = NOW + 365 * DAY,
    extensions: dict[str, bytes] | None = None,
    critical: tuple[str, ...] = (),
    issuer_name: str | None = None,
) -> Authority:
    """A certificate, by default of a CA that is valid for two years; self-signed without issuer."""
    key = ec.generate_private_key(ec.SECP384R1())
    issued_by = name(issuer_name) if issuer_name else None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(issued_by or (issuer.certificate.subject if issuer else name(subject)))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), True)
    )
    if ca:
        usage = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
             "key_agreement", "crl_sign", "encipher_only", "decipher_only"), False,
        )  # fmt: skip
        builder = builder.add_extension(x509.KeyUsage(key_cert_sign=cert_sign, **usage), True)
    for dotted, value in (extensions or {}).items():
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(dotted), value)
        builder = builder.add_extension(unknown, dotted in critical)
    return Authority(key, builder.sign(issuer.key if issuer else key, hashes.SHA384()))


@dataclass(eq=False)
class SnpPlatform:
    """An AMD machine of our own: its chain, and reports of guests on it.

    Args:
        tcb: bootloader, tee, snp, microcode that the leaf is derived for.
        until: the end of its certificates.
    """

    tcb: tuple[int, int, int, int] = (4, 0, 24, 219)
    chip: bytes = CHIP
    until: datetime.datetime = NOW + 365 * DAY
    root: Authority | None = None
    leaf_options: Options = field(default_factory=Options)

    def __post_init__(self) -> None:
        self.ark = self.root or make("ARK-Milan", end=self.until)
        self.ask = self.ark.issue("SEV-Milan", path_length=0, end=self.until)
        parts = zip(("3.1", "3.2", "3.3", "3.8"), self.tcb, strict=True)
        extensions = {
            f"{_AMD}.2": b"\x16\x08Milan-B0",
            f"{_AMD}.4": self.chip,
            **{f"{_AMD}.{part}": _integer(value) for part, value in parts},
        }
        options: Options = {"ca": False, "extensions": extensions, "end": self.until}
        options.update(self.leaf_options)
        self.vcek = self.ask.issue("SEV-VCEK", **options)

    @property
    def certificates(self) -> list[x509.Certificate]:
        """ARK, VCEK and ASK, in no helpful order."""
        return [each.certificate for each in (self.ark, self.vcek, self.ask)]

    def report(self, signer: Authority | None = None, **fields: bytes) -> bytes:
        """A report, genuine unless ``signer`` or ``fields`` make it otherwise."""
        bootloader, tee, snp, microcode = self.tcb
        tcb = bytes((bootloader, tee, 0, 0, 0, 0, snp, microcode))
        values = {
            0x000: (3).to_bytes(4, "little"),
            0x008: (0x3001F).to_bytes(8, "little"),
            0x034: (1).to_bytes(4, "little"),
            0x050: b"\x11" * 64,
            0x090: b"\x22" * 48,
            0x180: tcb,
            0x188: b"\x19\x01\x01",
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


def _integer(value: int) -> bytes:
    content = value.to_bytes(2, "big") if value > 0x7F else bytes((value,))
    return b"\x02" + bytes((len(content),)) + content
