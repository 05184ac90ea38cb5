"""An Intel platform of our own: its chain, its collateral, and quotes of enclaves and TDs on it.

Every part can have one fault, by an argument of its own; what isn't said is genuine and up to date.

Source: Intel, "SGX PCK Certificate and CRL Profile Specification"; "PCS API" version 4; the quote
layouts of `casemate.evidence.quote`.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from casemate_testkit.pki import (
    DAY,
    NOW,
    P256,
    Authority,
    der,
    make,
    pem,
    sign_raw,
    tlv,
    tlv_integer,
    tlv_oid,
)

_SGX_EXTENSIONS = "1.2.840.113741.1.13.1"
_INTEL_QE = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_QE_SIGNER = bytes.fromhex("8c4f5775d796503e96137f77c68a829a0056ac8ded70140b081b094490c57bff")
_QE_ATTRIBUTES = bytes.fromhex("11000000000000000000000000000000")
_SEPT_VE_DISABLE = (1 << 28).to_bytes(8, "little")
_QE_AUTH = bytes(range(32))
_DATE = "2026-05-13T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class TcbLevel:
    """A level of the platform's TCB, as TCB information names it.

    Args:
        svn: least security version of each component, and of the PCE.
        status: what a platform of that level is said to be.
        advisories: that apply to it.
        date: of the level.
    """

    svn: int = 5
    status: str = "UpToDate"
    advisories: tuple[str, ...] = ()
    date: str = _DATE


@dataclass(frozen=True, kw_only=True)
class Tcb:
    """What Intel says of TCB levels.

    Args:
        levels: of the platform, newest first.
        qe: of the quoting enclave.
        module: of the TDX module.
        start, end: when TCB information and QE identity were issued and end.
        number: of Intel's evaluation.
    """

    levels: tuple[TcbLevel, ...] = (TcbLevel(),)
    qe: tuple[TcbLevel, ...] = (TcbLevel(svn=8),)
    module: tuple[TcbLevel, ...] = (TcbLevel(svn=3),)
    start: datetime.datetime = NOW - DAY
    end: datetime.datetime = NOW + 29 * DAY
    number: int = 21


@dataclass(eq=False, kw_only=True)
class DcapPlatform:
    """A platform.

    Args:
        svn: of every component of the platform, and of its PCE.
        fmspc, ppid: what the PCK certificate names it.
        until: the end of its certificates.
        root: another platform's, to be under the same.
        leaf_end: the end of the PCK certificate, if another.
        qe_signer: who signed the quoting enclave.
        qe_svn: its security version.
    """

    svn: int = 5
    fmspc: bytes = bytes.fromhex("00906ed50000")
    ppid: bytes = bytes(range(16))
    until: datetime.datetime = NOW + 365 * DAY
    root: Authority | None = None
    leaf_end: datetime.datetime | None = None
    qe_signer: bytes = _QE_SIGNER
    qe_svn: int = 8
    attestation_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(P256)
    )

    def __post_init__(self) -> None:
        self.root_ca = self.root or make("Intel SGX Root CA", curve=P256, end=self.until)
        self.pck_ca = self.root_ca.issue(
            "Intel SGX PCK Platform CA", curve=P256, path_length=0, end=self.until
        )
        self.pck = self.pck_ca.issue(
            "Intel SGX PCK Certificate", curve=P256, ca=False, end=self.leaf_end or self.until,
            extensions={_SGX_EXTENSIONS: self._sgx_extension()},
        )  # fmt: skip
        self.tcb_signer = self.root_ca.issue(
            "Intel SGX TCB Signing", curve=P256, ca=False, end=self.until
        )

    @property
    def root_der(self) -> bytes:
        """The root certificate, as verifiers are given it."""
        return der(self.root_ca.certificate)

    def _sgx_extension(self) -> bytes:
        def entry(part: str, value: bytes) -> bytes:
            return tlv(0x30, tlv_oid(f"{_SGX_EXTENSIONS}.{part}"), value)

        flags = (tlv(0x01, b"\x00"),) * 3
        return tlv(
            0x30,
            entry("1", tlv(0x04, self.ppid)),
            entry("2", tlv(
                0x30,
                *(entry(f"2.{n}", tlv_integer(self.svn)) for n in range(1, 18)),
                entry("2.18", tlv(0x04, bytes((self.svn,)) * 16)),
            )),
            entry("3", tlv(0x04, bytes(2))),
            entry("4", tlv(0x04, self.fmspc)),
            entry("5", tlv(0x0A, b"\x01")),
            entry("6", tlv(0x04, bytes(16))),
            entry("7", tlv(0x30, *(entry(f"7.{n}", flag) for n, flag in enumerate(flags, 1)))),
        )  # fmt: skip

    # Collateral

    def tcb_info(self, tcb: Tcb = Tcb(), *, td: bool = False, fmspc: bytes | None = None) -> str:
        """TCB information, version 3: the text that is signed."""
        module: dict[str, object] = {
            "mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8,
        }  # fmt: skip
        extra: dict[str, object] = {}
        if td:
            levels = [_level(each, {"isvsvn": each.svn}) for each in tcb.module]
            extra = {
                "tdxModule": module,
                "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": levels}],
            }
        return _json({
            "id": "TDX" if td else "SGX", "version": 3, **_span(tcb),
            "fmspc": (fmspc or self.fmspc).hex().upper(), "pceId": "0000", "tcbType": 0,
            **extra,
            "tcbLevels": [_level(each, _components(each.svn, td=td)) for each in tcb.levels],
        })  # fmt: skip

    def qe_identity(self, tcb: Tcb = Tcb(), *, td: bool = False) -> str:
        """The quoting enclave's identity, version 2: the text that is signed."""
        return _json({
            "id": "TD_QE" if td else "QE", "version": 2, **_span(tcb),
            "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
            "attributes": _QE_ATTRIBUTES.hex().upper(),
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": _QE_SIGNER.hex().upper(), "isvprodid": 1,
            "tcbLevels": [_level(each, {"isvsvn": each.svn}) for each in tcb.qe],
        })  # fmt: skip

    def sign(self, text: str, signer: Authority | None = None) -> str:
        """The signature of such a text: R and S, 128 hex digits."""
        return sign_raw((signer or self.tcb_signer).key, text.encode()).hex()

    def collateral(
        self,
        tcb: Tcb = Tcb(),
        *,
        td: bool = False,
        fmspc: bytes | None = None,
        revoked: Sequence[x509.Certificate] = (),
        lists_end: datetime.datetime = NOW + 20 * DAY,
        signer: Authority | None = None,
    ) -> bytes:
        """The JSON object that PCCS clients exchange.

        Args:
            tcb: what Intel says of TCB levels.
            td: for TDX, not SGX.
            fmspc: of another kind of platform.
            revoked: certificates that the lists name.
            lists_end: when both revocation lists end.
            signer: of TCB information and QE identity, below the root.
        """
        by = signer or self.tcb_signer
        chain = pem(by.certificate, self.root_ca.certificate).decode()
        info, identity = self.tcb_info(tcb, td=td, fmspc=fmspc), self.qe_identity(tcb, td=td)
        lists = [
            issuer.revocation_list(
                *(each for each in revoked if each.issuer == issuer.certificate.subject),
                start=min(NOW, lists_end) - 10 * DAY, end=lists_end,
            )
            for issuer in (self.root_ca, self.pck_ca)
        ]  # fmt: skip
        return _json({
            "pck_crl_issuer_chain": pem(
                self.pck_ca.certificate, self.root_ca.certificate
            ).decode(),
            "root_ca_crl": der(lists[0]).hex(), "pck_crl": der(lists[1]).hex(),
            "tcb_info_issuer_chain": chain, "tcb_info": info,
            "tcb_info_signature": self.sign(info, by),
            "qe_identity_issuer_chain": chain, "qe_identity": identity,
            "qe_identity_signature": self.sign(identity, by),
        }).encode()  # fmt: skip

    # Quotes

    def sgx_quote(
        self,
        *,
        version: int = 3,
        report_data: bytes = b"\x11" * 64,
        mr_enclave: bytes = b"\x22" * 32,
        mr_signer: bytes = b"\x33" * 32,
        isv_prod_id: int = 1,
        isv_svn: int = 2,
        debug: bool = False,
        signer: ec.EllipticCurvePrivateKey | None = None,
        pck: Authority | None = None,
    ) -> bytes:
        """A quote of an enclave.

        Args:
            version: of the quote, 3 to 5.
            report_data, mr_enclave, mr_signer, isv_prod_id, isv_svn, debug: what it says.
            signer: whose key signs it instead of the attestation key.
            pck: whose key signs the quoting enclave's report instead of the platform's.
        """
        body = sgx_report(
            report_data=report_data, mr_enclave=mr_enclave, mr_signer=mr_signer,
            isv_prod_id=isv_prod_id, isv_svn=isv_svn,
            attributes=bytes((0x07 if debug else 0x05,)) + bytes(7) + b"\x03" + bytes(7),
        )  # fmt: skip
        return self._quote(version, 0x00, body, signer, pck)

    def td_quote(
        self,
        *,
        version: int = 4,
        report_data: bytes = b"\x11" * 64,
        mr_td: bytes = b"\x22" * 48,
        rtmr: Sequence[bytes] = (bytes(48),) * 4,
        tee_tcb_svn: bytes = bytes((3, 1)) + bytes((5,)) * 14,
        td_attributes: bytes = _SEPT_VE_DISABLE,
        mr_service_td: bytes | None = None,
        signer: ec.EllipticCurvePrivateKey | None = None,
        pck: Authority | None = None,
    ) -> bytes:
        """A quote of a trust domain; of module 1.5 where ``mr_service_td`` is given.

        Args:
            version: of the quote, 4 or 5.
            report_data, mr_td, rtmr, tee_tcb_svn, td_attributes, mr_service_td: what it says.
            signer, pck: see `sgx_quote`.
        """
        body = (
            tee_tcb_svn + bytes(48) + bytes(48) + bytes(8) + td_attributes + bytes(8)
            + mr_td + bytes(48) * 3 + b"".join(rtmr) + report_data
        )  # fmt: skip
        if mr_service_td is not None:
            body += tee_tcb_svn + mr_service_td
        return self._quote(version, 0x81, body, signer, pck)

    def _quote(
        self,
        version: int,
        tee: int,
        body: bytes,
        signer: ec.EllipticCurvePrivateKey | None,
        pck: Authority | None,
    ) -> bytes:
        header = (
            version.to_bytes(2, "little") + (2).to_bytes(2, "little") + tee.to_bytes(4, "little")
            + bytes(4) + _INTEL_QE + bytes(20)
        )  # fmt: skip
        if version == 5:
            kind = {384: 1, 584: 2, 648: 3}[len(body)]
            body = kind.to_bytes(2, "little") + len(body).to_bytes(4, "little") + body
        signed = header + body
        public = self.attestation_key.public_key()
        point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        qe = sgx_report(
            report_data=hashlib.sha256(point + _QE_AUTH).digest() + bytes(32),
            mr_enclave=b"\x44" * 32, mr_signer=self.qe_signer, isv_prod_id=1,
            isv_svn=self.qe_svn, attributes=_QE_ATTRIBUTES,
        )  # fmt: skip
        chain = pem(self.pck.certificate, self.pck_ca.certificate, self.root_ca.certificate)
        certified = (
            qe + sign_raw((pck or self.pck).key, qe)
            + len(_QE_AUTH).to_bytes(2, "little") + _QE_AUTH
            + (5).to_bytes(2, "little") + len(chain).to_bytes(4, "little") + chain
        )  # fmt: skip
        if version > 3:
            certified = (6).to_bytes(2, "little") + len(certified).to_bytes(4, "little") + certified
        data = sign_raw(signer or self.attestation_key, signed) + point + certified
        return signed + len(data).to_bytes(4, "little") + data


def sgx_report(
    *,
    report_data: bytes,
    mr_enclave: bytes,
    mr_signer: bytes,
    isv_prod_id: int,
    isv_svn: int,
    attributes: bytes,
) -> bytes:
    """A report body of 384 bytes."""
    return (
        bytes((5,)) * 16 + bytes(4) + bytes(12) + bytes(16) + attributes + mr_enclave + bytes(32)
        + mr_signer + bytes(32) + bytes(64) + isv_prod_id.to_bytes(2, "little")
        + isv_svn.to_bytes(2, "little") + bytes(2) + bytes(42) + bytes(16) + report_data
    )  # fmt: skip


def _components(svn: int, *, td: bool) -> dict[str, object]:
    parts = [{"svn": svn}] * 16
    # The first two of a TD's are the module's own, which its identity judges.
    module = [{"svn": 0}] * 2 + [{"svn": svn}] * 14
    extra = {"tdxtcbcomponents": module} if td else {}
    return {"sgxtcbcomponents": parts, "pcesvn": svn, **extra}


def _level(level: TcbLevel, tcb: dict[str, object]) -> dict[str, object]:
    named: dict[str, object] = {"tcb": tcb, "tcbDate": level.date, "tcbStatus": level.status}
    if level.advisories:
        named["advisoryIDs"] = list(level.advisories)
    return named


def _span(tcb: Tcb) -> dict[str, object]:
    return {
        "issueDate": _time(tcb.start),
        "nextUpdate": _time(tcb.end),
        "tcbEvaluationDataNumber": tcb.number,
    }


def _time(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, separators=(",", ":"))
