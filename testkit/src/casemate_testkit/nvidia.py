"""A GPU of our own: its chain, its reports, the vendor's manifests, and its OCSP responder.

Source: see `casemate.evidence.nvidia` and `casemate.endorsements.rim`.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from cryptography import x509
from lxml import etree

from casemate_testkit.pki import DAY, NOW, Authority, der, make, sign_raw, tlv, tlv_oid

HOPPER_FWID, BLACKWELL_FWID = "2.23.133.5.4.1", "2.23.133.5.4.1.1"
FWID = b"\x55" * 48
_SHA384_OID = "2.16.840.1.101.3.4.2.2"
_DRIVER, _VBIOS, _NVDEC0, _FWID_FIELD = 3, 6, 11, 20
_BOARD = {15: b"882\0", 17: b"1010\0", 18: b"0200\0"}  # chip SKU, project, project SKU
_ENABLED, _DISABLED = b"\xaa", b"\x55"
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_DS = "http://www.w3.org/2000/09/xmldsig#"


@dataclass(eq=False, kw_only=True)
class NvidiaDevice:
    """A GPU, and who vouches for it and for its firmware.

    Args:
        chip: as the certificates and manifests name the architecture: ``GH100``.
        fwid_oid: of the extension that names the leaf's firmware.
        fwid: what it names.
        driver, vbios: versions.
        until: the end of the certificates; real ones end in the year 9999.
    """

    chip: str = "GH100"
    fwid_oid: str = HOPPER_FWID
    fwid: bytes = FWID
    driver: str = "550.90.07"
    vbios: str = "96.00.9F.00.01"
    until: datetime.datetime = NOW + 365 * DAY

    def __post_init__(self) -> None:
        end = self.until
        self.root = make("NVIDIA Device Identity CA", end=end)
        self.identity = self.root.issue(f"NVIDIA {self.chip} Identity", end=end)
        self.provisioner = self.identity.issue(f"NVIDIA {self.chip} Provisioner ICA 1", end=end)
        self.make_device()
        self.rim_root = make("NVIDIA CoRIM signing root CA", end=end)
        self.rim_ca = self.rim_root.issue("NVIDIA CoRIM signing CA", path_length=0, end=end)
        self.rim_signer = self.rim_ca.issue("NVIDIA RIM signer", ca=False, end=end)

    def make_device(self) -> None:
        """Make device and leaf anew."""
        end = self.until
        self.device = self.provisioner.issue(f"{self.chip} A01 GSP BROM", path_length=0, end=end)
        fwid = tlv(0x30, tlv_oid(_SHA384_OID), tlv(0x04, self.fwid))
        self.leaf = self.device.issue(
            f"{self.chip} A01 GSP FMC LF", ca=False, end=end, extensions={self.fwid_oid: fwid}
        )

    def sibling(self) -> NvidiaDevice:
        """Another GPU of the same kind, under the same authorities."""
        other = copy.copy(self)
        other.make_device()
        return other

    @property
    def chain(self) -> list[x509.Certificate]:
        """The device's, leaf first."""
        authorities = (self.leaf, self.device, self.provisioner, self.identity, self.root)
        return [each.certificate for each in authorities]

    def report(
        self,
        *,
        nonce: bytes = b"\x11" * 32,
        measurements: Mapping[int, bytes] | None = None,
        fwid: bytes | None = FWID,
        nvdec0: bool = False,
        signer: Authority | None = None,
    ) -> bytes:
        """Request and response, genuine unless the arguments make it otherwise.

        Args:
            nonce: of the request.
            measurements: by index, instead of the manifests'.
            fwid: of the firmware, or None to leave the field out.
            nvdec0: whether the decoder runs.
            signer: whose key signs instead of the leaf's.
        """
        values = measurements if measurements is not None else MEASUREMENTS
        records = b"".join(
            bytes((index, 1)) + (51).to_bytes(2, "little") + b"\x01"
            + (48).to_bytes(2, "little") + value
            for index, value in values.items()
        )  # fmt: skip
        *major, minor = bytes.fromhex(self.vbios.replace(".", ""))
        fields = {
            _DRIVER: self.driver.encode() + b"\0",
            _VBIOS: bytes((*reversed(major), minor)) + bytes(3),
            _NVDEC0: _ENABLED if nvdec0 else _DISABLED,
            **_BOARD,
        } | ({_FWID_FIELD: fwid} if fwid is not None else {})
        opaque = b"".join(
            kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
            for kind, value in fields.items()
        )
        signed = (
            b"\x11\xe0\x01\xff" + nonce + b"\x00\x11\x60\x00\x00" + bytes((len(values),))
            + len(records).to_bytes(3, "little") + records + b"\x77" * 32
            + len(opaque).to_bytes(2, "little") + opaque
        )  # fmt: skip
        return signed + sign_raw((signer or self.leaf).key, signed)

    def rim(
        self,
        kind: str,
        *,
        version: str | None = None,
        golden: Mapping[int, tuple[bytes, ...]] | None = None,
        signer: Authority | None = None,
        carried: Collection[x509.Certificate] | None = None,
        change: Callable[[etree._Element], None] | None = None,
    ) -> bytes:
        """A manifest, signed.

        Args:
            kind: ``driver`` or ``vbios``.
            version: of another firmware.
            golden: right values by index, instead of the device's own.
            signer: whose key signs instead of the signer's.
            carried: certificates in the document, instead of the signer's chain and its root.
            change: changes the document before it is signed.
        """
        own = self.driver if kind == "driver" else self.vbios
        document = _document(self.chip, version or own, golden or GOLDEN[kind])
        if change is not None:
            change(document)
        chain = (self.rim_signer, self.rim_ca, self.rim_root)
        return _signed(
            document,
            signer or self.rim_signer,
            [each.certificate for each in chain] if carried is None else carried,
        )

    def ocsp_responses(
        self,
        *,
        revoked: x509.Certificate | None = None,
        unknown: x509.Certificate | None = None,
        left_out: x509.Certificate | None = None,
        responder: Authority | None = None,
        start: datetime.datetime = NOW - DAY,
        end: datetime.datetime | None = NOW + DAY,
    ) -> list[bytes]:
        """What the responder says of each certificate, signed by each issuer's own responder.

        Args:
            revoked, unknown, left_out: the one of which it says so, or nothing.
            responder: who signs all of them, instead.
            start, end: since when and until when that is known.
        """
        pairs = (
            (self.device, self.provisioner), (self.provisioner, self.identity),
            (self.identity, self.root), (self.rim_signer, self.rim_ca),
            (self.rim_ca, self.rim_root),
        )  # fmt: skip
        return [
            issuer.ocsp_response(
                each.certificate,
                responder=responder or issuer.responder(end=self.until),
                revoked=each.certificate == revoked,
                unknown=each.certificate == unknown,
                start=start,
                end=end,
            )
            for each, issuer in pairs
            if each.certificate != left_out
        ]


MEASUREMENTS: Mapping[int, bytes] = {index: bytes((index,)) * 48 for index in range(1, 9)}
"""What a device measures to by itself."""
GOLDEN: Mapping[str, Mapping[int, tuple[bytes, ...]]] = {
    "driver": {index: (MEASUREMENTS[index],) for index in (1, 2, 3)} | {36: (b"\x24" * 48,)},
    "vbios": {4: (bytes(48), MEASUREMENTS[4]), 5: (MEASUREMENTS[5],)},
}
"""What the manifests say; measurement 36 is the decoder's, which doesn't run."""


def _document(chip: str, version: str, golden: Mapping[int, tuple[bytes, ...]]) -> etree._Element:
    root = etree.Element(f"{{{_SWID}}}SoftwareIdentity", nsmap={None: _SWID})
    etree.SubElement(root, f"{{{_SWID}}}Meta", colloquialVersion=version, product=chip)
    payload = etree.SubElement(root, f"{{{_SWID}}}Payload")
    for index, values in golden.items():
        resource = etree.SubElement(payload, f"{{{_SWID}}}Resource")
        resource.set("type", "Measurement")
        resource.set("index", str(index - 1))
        resource.set("active", "True")
        resource.set("alternatives", str(len(values)))
        for number, value in enumerate(values):
            resource.set(f"{{http://www.w3.org/2001/04/xmlenc#sha384}}Hash{number}", value.hex())
    return root


def _signed(
    root: etree._Element, signer: Authority, certificates: Collection[x509.Certificate]
) -> bytes:
    digest = hashlib.sha384(etree.tostring(root, method="c14n")).digest()
    signature = etree.SubElement(root, f"{{{_DS}}}Signature", nsmap={None: _DS})
    info = etree.SubElement(signature, f"{{{_DS}}}SignedInfo")
    c14n = "http://www.w3.org/2006/12/xml-c14n11"
    more = "http://www.w3.org/2001/04/xmldsig-more#"
    etree.SubElement(info, f"{{{_DS}}}CanonicalizationMethod", Algorithm=c14n)
    etree.SubElement(info, f"{{{_DS}}}SignatureMethod", Algorithm=f"{more}ecdsa-sha384")
    reference = etree.SubElement(info, f"{{{_DS}}}Reference", URI="")
    transforms = etree.SubElement(reference, f"{{{_DS}}}Transforms")
    for algorithm in (f"{_DS}enveloped-signature", c14n):
        etree.SubElement(transforms, f"{{{_DS}}}Transform", Algorithm=algorithm)
    etree.SubElement(reference, f"{{{_DS}}}DigestMethod", Algorithm=f"{more}sha384")
    _text(reference, "DigestValue", digest)
    value = sign_raw(signer.key, etree.tostring(info, method="c14n"))
    _text(signature, "SignatureValue", value)
    data = etree.SubElement(etree.SubElement(signature, f"{{{_DS}}}KeyInfo"), f"{{{_DS}}}X509Data")
    for each in certificates:
        _text(data, "X509Certificate", der(each))
    document: bytes = etree.tostring(root, xml_declaration=True, encoding="utf-8")
    return document


def _text(parent: etree._Element, tag: str, value: bytes) -> None:
    etree.SubElement(parent, f"{{{_DS}}}{tag}").text = base64.b64encode(value).decode()
