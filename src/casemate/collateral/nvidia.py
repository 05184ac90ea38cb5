"""Parts of NVIDIA's service for reference integrity manifests (RIM).

Source: NVIDIA, "RIM service" in the documentation of its attestation suite: ``GET /v1/rim/ID``
gives JSON with the manifest in base64. Ids are made of the firmware's version and, for a VBIOS, of
the board's project, project SKU and chip SKU, as the GPU's report names them.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from dataclasses import dataclass

from casemate.collateral.wanted import Parts, Services, part, unexpected
from casemate.collateral.web import MAX_BODY, Web
from casemate.encoding import MapReader, decode_json
from casemate.errors import MalformedError
from casemate.evidence.nvidia import NvidiaReport
from casemate.verify.collateral import Validity
from casemate.verify.collateral_nvidia import check_manifest
from casemate.verify.roots import VendorRoots

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
