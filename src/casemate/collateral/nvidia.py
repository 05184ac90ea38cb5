"""Parts of NVIDIA's service for reference integrity manifests (RIM), and of its OCSP responder.

Source: NVIDIA, "RIM service" in the documentation of its attestation suite: ``GET /v1/rim/ID``
gives JSON with the manifest in base64. Ids are made of the firmware's version and, for a VBIOS, of
the board's project, project SKU and chip SKU, as the GPU's report names them. RFC 6960, appendix A,
for OCSP over HTTP.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from casemate.collateral.wanted import MAX_BODY, Parts, Services, part, unexpected
from casemate.encoding import MapReader, decode_json
from casemate.endorsements.certificates import load_certificates
from casemate.errors import MalformedError
from casemate.evidence.nvidia import NvidiaReport
from casemate.verify.chain import fingerprint
from casemate.verify.collateral import Validity
from casemate.verify.collateral_nvidia import check_manifest, check_status
from casemate.verify.roots import VendorRoots

if TYPE_CHECKING:
    from casemate.collateral.web import Web

_DRIVER = re.compile(r"NV_GPU_DRIVER_([A-Z0-9]{2,8})_([0-9A-Za-z.]{1,32})")
_VBIOS = re.compile(r"NV_GPU_VBIOS_(?:[A-Z0-9]{1,16}_){3}([0-9A-F]{10})")
_CHIP_SKU, _PROJECT, _PROJECT_SKU = 15, 17, 18


@dataclass(frozen=True, slots=True)
class NvidiaRim:
    """A manifest.

    Args:
        id: as the service names it.
    """

    id: str

    @property
    def name(self) -> str:
        """What it is."""
        return f"nvidia/rim/{self.id}"

    def service(self, services: Services) -> str:
        """The RIM service."""
        return services.rim.rstrip("/")

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Ask for the manifest, and take it out of its wrapping."""
        answer = web.get(f"{self.service(services)}/v1/rim/{self.id}")
        fields = MapReader(
            decode_json(answer.body, what="RIM service's answer", max_size=MAX_BODY),
            what="RIM service's answer",
        )
        if (got := fields.take("id", str)) != self.id:
            raise unexpected("id", self.id, got)
        try:
            return {"body": base64.b64decode(fields.take("rim", str), validate=True)}
        except binascii.Error as error:
            raise unexpected("rim", "base64", "something else") from error

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_manifest`; the id says which version, and of drivers for which product."""
        driver, vbios = _DRIVER.fullmatch(self.id), _VBIOS.fullmatch(self.id)
        if driver is not None:
            product, version = driver[1], driver[2].replace(".", "")
        elif vbios is not None:
            product, version = None, vbios[1]
        else:
            raise unexpected("id", "NV_GPU_DRIVER_… or NV_GPU_VBIOS_…", self.id)
        return check_manifest(
            part(parts, "body"), version=version, product=product, roots={roots.nvidia_rim}, at=at
        )


@dataclass(frozen=True, slots=True)
class NvidiaStatus:
    """What the responder says of a certificate.

    A cached answer can't carry a nonce of ours; how old it may be is what it says itself.

    Args:
        chain: the certificate, its issuers, the root.
    """

    chain: tuple[x509.Certificate, ...]

    @property
    def name(self) -> str:
        """What it is."""
        return f"nvidia/ocsp/{fingerprint(self.chain[0])}"

    def service(self, services: Services) -> str:
        """The responder."""
        return services.ocsp

    def fetch(self, web: Web, services: Services) -> dict[str, bytes]:
        """Ask without a nonce."""
        question = (
            ocsp.OCSPRequestBuilder()
            .add_certificate(self.chain[0], self.chain[1], hashes.SHA384())
            .build()
            .public_bytes(Encoding.DER)
        )
        answer = web.post(services.ocsp, question, content_type="application/ocsp-request")
        chain = b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)
        return {"body": answer.body, "chain": chain}

    def check(self, parts: Parts, roots: VendorRoots, at: datetime.datetime) -> Validity:
        """See `check_status`."""
        chain = load_certificates(part(parts, "chain"), what="chain")
        if chain != self.chain:
            raise unexpected("chain", "the one that was asked about", "another")
        return check_status(
            part(parts, "body"), chain, roots={roots.nvidia_device, roots.nvidia_rim}, at=at
        )

    @classmethod
    def of(cls, parts: Parts) -> NvidiaStatus:
        """What parts are about.

        Raises:
            MalformedError: ``collateral.form``, ``endorsements.certificate``.
        """
        chain = load_certificates(part(parts, "chain"), what="chain")
        if len(chain) < 2:
            raise unexpected("chain", "a certificate and its issuers", f"{len(chain)}")
        return cls(chain)


def manifest_ids(report: NvidiaReport, product: str) -> tuple[str, str]:
    """The ids of the manifests of driver and VBIOS that a report is held against.

    Args:
        report: parsed.
        product: of the GPU, such as ``GH100``.

    Raises:
        MalformedError: ``collateral.rim-id`` where the report names a part in another form.
    """
    names = [_opaque_text(report, number) for number in (_PROJECT, _PROJECT_SKU, _CHIP_SKU)]
    driver = f"NV_GPU_DRIVER_{product}_{report.driver_version}"
    vbios = "_".join(("NV_GPU_VBIOS", *names, report.vbios_version.replace(".", "").upper()))
    for text, pattern in ((driver, _DRIVER), (vbios, _VBIOS)):
        if not pattern.fullmatch(text):
            raise MalformedError(
                "collateral.rim-id",
                "the report doesn't say which manifests it is held against",
                field="project, SKU, driver or VBIOS version",
                expected="capital letters and digits",
                got=text[:120],
            )
    return driver, vbios


def _opaque_text(report: NvidiaReport, number: int) -> str:
    return report.opaque.get(number, b"").rstrip(b"\0").decode("ascii", "replace").upper()
