"""Verify NVIDIA GPU reports.

 1. The report parses (`casemate.evidence.nvidia`).
 2. The device's chain ends in NVIDIA's pinned root.
 3. The leaf's firmware (FWID) is the report's.
 4. The leaf's key signed request and response.
 5. Both manifests, of the driver and of the VBIOS, are of the versions that the report names, are
    signed, and their signers' chains end in NVIDIA's pinned root for manifests.
 6. Every measurement that a manifest gives is one of its values in the report.
 7. NVIDIA's OCSP responder calls every certificate of these three chains good, where its responses
    are at hand. Roots are pinned, and the leaf is the device's own: the device, which issued it, is
    what would be revoked.

NVIDIA's responder calls good what it doesn't know, too: "good" doesn't say that NVIDIA issued a
certificate. The chain does.

Source: see `casemate.evidence.nvidia` and `casemate.endorsements.rim`; NVIDIA, "OCSP Responses".
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from casemate.endorsements.ocsp import OcspResponse
from casemate.endorsements.rim import Rim
from casemate.errors import NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.nvidia import NvidiaReport, parse_nvidia_report
from casemate.types import ReportData, Sha256
from casemate.verify.chain import fingerprint, verify_chain
from casemate.verify.checks import CheckList
from casemate.verify.ocsp import check_ocsp
from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.roots import NVIDIA_DEVICE_ROOT, NVIDIA_RIM_ROOT

_FWID_OIDS = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")  # Hopper, Blackwell
_FWID_SIZE = 48
_NVDEC0_INDEX = 36


def verify_nvidia(
    data: bytes,
    *,
    chain: Sequence[x509.Certificate],
    rims: Sequence[Rim],
    rim_roots: Sequence[x509.Certificate] = (),
    ocsp_responses: Sequence[OcspResponse] = (),
    at: datetime.datetime,
    device_roots: Collection[Sha256] = (NVIDIA_DEVICE_ROOT,),
    manifest_roots: Collection[Sha256] = (NVIDIA_RIM_ROOT,),
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a report.

    Args:
        data: request and response.
        chain: the device's, leaf first.
        rims: the manifests of driver and VBIOS; others are ignored.
        rim_roots: the root certificate of manifests, where they don't carry it.
        ocsp_responses: of NVIDIA's responder. Without one, revocation isn't known: the claim
            ``revocation`` is ``unknown``, for a policy to judge.
        at: the time. Device certificates never end; only OCSP can revoke them.
        device_roots, manifest_roots: fingerprints of the roots that are trusted.
        checks: collects the checks.

    Returns:
        The report; it binds the 32-byte nonce, filled up with zeros.

    Raises:
        MalformedError: it can't be read.
        UnavailableError: ``nvidia.no-rim`` where a manifest isn't at hand; ``nvidia.no-ocsp``,
            ``rim.no-ocsp`` where there are responses, and none that is current of some certificate.
        NotGenuineError: ``nvidia.*``, ``rim.*``.

    Does not check: any policy.
    """
    checks = CheckList() if checks is None else checks
    report = verify_device(data, chain=chain, at=at, roots=device_roots, checks=checks)
    with checks.check("nvidia.rims", "NVIDIA signed the manifests of these versions"):  # 5
        manifests = [
            _manifest(rims, version, what)
            for version, what in (
                (report.driver_version, "driver"),
                (report.vbios_version, "VBIOS"),
            )
        ]
        rim_chains = [_chain_of(manifest, rim_roots) for manifest in manifests]
        for rim_chain in dict.fromkeys(rim_chains):  # both are usually one signer's
            verify_chain(rim_chain, roots=manifest_roots, at=at, what="rim")
        for manifest, rim_chain in zip(manifests, rim_chains, strict=True):
            check_p384(rim_chain[0], manifest.signature, manifest.signed, "rim.signature")
    with checks.check("nvidia.measurements", "the GPU runs what the manifests say"):  # 6
        compared = sum(_compare(report, manifest) for manifest in manifests)
    revocation: dict[str, ClaimValue] = {"revocation": "unknown"}
    if ocsp_responses:  # 7
        with checks.check("nvidia.revocation", "NVIDIA's responder calls every certificate good"):
            known = [_check_revoked(chain[1:], ocsp_responses, at, "nvidia")]
            for rim_chain in dict.fromkeys(rim_chains):
                known.append(_check_revoked(rim_chain, ocsp_responses, at, "rim"))
        revocation = {"revocation": "checked", "revocation_age_days": (at - min(known)).days}
    return VerifiedReport(
        tee=Tee.NVIDIA,
        report_data=ReportData(report.nonce.ljust(ReportData.length, b"\0")),
        claims={
            "nonce": report.nonce,
            "driver_version": report.driver_version,
            "vbios_version": report.vbios_version,
            "architecture": manifests[0].product,
            "measurements": len(report.measurements),
            "measurements_compared": compared,
            "fwid": report.fwid or b"",
            # As NVIDIA's own verifier concludes: signed firmware, all of it as the manifests say.
            "secure_boot": True,
            "debug": False,
            "device": bytes(fingerprint(chain[1])),
            **revocation,
        },
        checks=checks.done(),
    )


def verify_device(
    data: bytes,
    *,
    chain: Sequence[x509.Certificate],
    at: datetime.datetime,
    roots: Collection[Sha256] = (NVIDIA_DEVICE_ROOT,),
    checks: CheckList,
) -> NvidiaReport:
    """Rules 1 to 4: a report that a GPU of NVIDIA's made, of whatever firmware.

    Args:
        data, chain, at, checks: see `verify_nvidia`.
        roots: fingerprints of the roots of devices.

    Raises:
        MalformedError, NotGenuineError: ``nvidia.*``.

    Does not check: what it measured, and revocation.
    """
    with checks.check("nvidia.report", "the report has the form that the GPU gives it"):  # 1
        report = parse_nvidia_report(data)
    with checks.check("nvidia.chain", "the device's chain ends in NVIDIA's root"):  # 2
        verify_chain(chain, roots=roots, at=at, what="nvidia")
    with checks.check("nvidia.fwid", "the key belongs to the firmware that the report names"):  # 3
        _check_fwid(report, chain[0])
    with checks.check("nvidia.signature", "the device's key signed request and response"):  # 4
        check_p384(chain[0], report.signature, report.signed, "nvidia.signature")
    return report


def check_p384(certificate: x509.Certificate, signature: bytes, signed: bytes, code: str) -> None:
    """Verify a bare ECDSA signature, R and S of 48 bytes, with SHA-384.

    Raises:
        NotGenuineError: ``code``.
    """
    key = certificate.public_key()
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
            raise InvalidSignature
        key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise NotGenuineError(
            code,
            "the signature doesn't hold",
            field="signature",
            expected=f"by {certificate.subject.rfc4514_string()[:120]}, on P-384",
            remedy="Nothing can repair it: it was changed, or somebody else made it.",
        ) from error


def _check_fwid(report: NvidiaReport, leaf: x509.Certificate) -> None:
    values = [
        extension.value.value
        for extension in leaf.extensions
        if extension.oid.dotted_string in _FWID_OIDS
        and isinstance(extension.value, x509.UnrecognizedExtension)
    ]
    # The digest is the last thing in the extension's DER.
    fwids = [value[-_FWID_SIZE:] for value in values if len(value) >= _FWID_SIZE]
    if report.fwid is None or report.fwid not in fwids:
        raise NotGenuineError(
            "nvidia.fwid",
            "the key isn't that of the firmware that the report names",
            field="FWID",
            expected=" or ".join(value.hex() for value in fwids) or "an FWID",
            got=report.fwid.hex() if report.fwid is not None else "none",
            remedy="Take report and chain from the same device, in one go.",
        )


def _manifest(rims: Sequence[Rim], version: str, what: str) -> Rim:
    # One that came along and that the verifier has too is one.
    found = list({r.signed: r for r in rims if r.version.upper() == version.upper()}.values())
    if len(found) != 1:
        raise UnavailableError(
            "nvidia.no-rim",
            f"what the {what} {version} should measure to isn't known",
            field=f"{what} manifest",
            expected=f"one manifest of version {version}",
            got=", ".join(rim.version for rim in rims) or "none",
            remedy="Fetch it from NVIDIA's RIM service.",
        )
    return found[0]


def _chain_of(manifest: Rim, rim_roots: Sequence[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    """The signer's chain, with its root."""
    chain = manifest.certificates
    if chain[-1].subject != chain[-1].issuer:
        return (*chain, *[each for each in rim_roots if each.subject == chain[-1].issuer][:1])
    return chain


def _check_revoked(
    chain: Sequence[x509.Certificate],
    responses: Sequence[OcspResponse],
    at: datetime.datetime,
    what: str,
) -> datetime.datetime:
    """Rule 7, of all but the root; returns as of when that is known of all of them."""
    known = [
        check_ocsp(certificate, chain[index + 1 :], responses, at=at, what=what)
        for index, certificate in enumerate(chain[:-1])
    ]
    return min(known, default=at)


def _compare(report: NvidiaReport, manifest: Rim) -> int:
    """Rule 6; returns how many measurements were compared."""
    compared = 0
    for index, golden in sorted(manifest.golden.items()):
        if index == _NVDEC0_INDEX and not report.nvdec0_enabled:
            continue  # no decoder runs, so there's no firmware of it
        got = report.measurements.get(index)
        if got not in golden:
            raise NotGenuineError(
                "nvidia.measurement",
                "the GPU runs other firmware than NVIDIA's manifest says",
                field=f"measurement {index} of {manifest.version}",
                expected=" or ".join(value.hex() for value in golden),
                got=got.hex() if got is not None else "nothing",
                remedy="Use the driver and VBIOS that the manifests are of.",
            )
        compared += 1
    return compared
