"""From evidence to what it is verified with: which parts it needs, and all of them as one.

What evidence says of its platform isn't verified here. A forged one makes somebody ask a vendor
about a platform that doesn't exist, and nothing else.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from cryptography import x509

from casemate.collateral.amd import AmdChain, AmdCrl, AmdVcek
from casemate.collateral.intel import (
    IntelPckCrl,
    IntelQeIdentity,
    IntelRootCrl,
    IntelTcb,
    collateral_of,
    intel_root,
    quote_parts,
)
from casemate.collateral.nvidia import NvidiaRim, NvidiaStatus, manifest_ids
from casemate.collateral.wanted import Parts, Wanted, part
from casemate.endorsements.certificates import (
    load_certificate,
    load_certificates,
    load_revocation_lists,
)
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.endorsements.dcap import DcapCollateral
from casemate.endorsements.ocsp import parse_ocsp_response
from casemate.endorsements.rim import parse_rim
from casemate.errors import MalformedError, UnavailableError
from casemate.evidence import Evidence, Tee
from casemate.evidence.azure import parse_azure_evidence
from casemate.evidence.composite import parse_composite_evidence
from casemate.evidence.detect import RATLS
from casemate.evidence.nvidia import parse_nvidia_report
from casemate.evidence.pck import platform_of
from casemate.evidence.quote import SgxReport, parse_quote
from casemate.evidence.ratls import parse_attested_certificate
from casemate.evidence.snp import SnpReport, parse_snp_report, parse_tcb_version, product_of
from casemate.verify.anything import device_chain
from casemate.verify.chain import verify_chain
from casemate.verify.collateral import Validity, common_name
from casemate.verify.roots import VendorRoots
from casemate.verify.snp import CertifiedChip, certified_chip

_TURIN_ID_SIZE = 8
_OPEN_ENDED = (Tee.NVIDIA, Tee.COMPOSITE)
_PRODUCTS = ("GH100", "GB100", "GB202")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part that was checked.

    Args:
        wanted: what it is.
        parts: what came.
        validity: when it is good.
        asked: when it came from its service.
        fetched: whether that was just now.
        warning: why it couldn't be fetched again, where it should have been.
    """

    wanted: Wanted
    parts: Parts
    validity: Validity
    asked: datetime.datetime
    fetched: bool = False
    warning: str | None = None


class Source(Protocol):
    """Where parts are had from, or why not is said."""

    def get(self, wanted: Wanted) -> Part:
        """A part that is good now.

        Raises:
            UnavailableError: ``collateral.*``.
        """


class Store(Protocol):
    """Where parts may lie."""

    def look(self, wanted: Wanted) -> Part | None:
        """A part that is good now, if it is there."""


def gather(
    kind: str,
    data: bytes,
    *,
    given: Endorsements,
    stores: Sequence[Store] = (),
    source: Source | None = None,
) -> Endorsements:
    """What evidence is verified with: what is given, what lies in stores, the rest from a source.

    Args:
        kind: of the evidence, as `casemate.evidence.detect.detect` names it.
        data: the evidence.
        given: what is at hand already, and isn't looked for.
        stores: the first that has a part is taken.
        source: of what none has. Without one such a part is missing, as if nobody had looked.

    Raises:
        MalformedError: the evidence can't be read.
        UnavailableError: ``collateral.*``.
    """
    parts = collect(kind, data, given=given, stores=stores, source=source)
    return assemble(parts, given=given)


def collect(
    kind: str,
    data: bytes,
    *,
    given: Endorsements,
    stores: Sequence[Store] = (),
    source: Source | None = None,
) -> tuple[Part, ...]:
    """The parts of `gather`, by themselves.

    Raises:
        MalformedError, UnavailableError: see `gather`.
    """
    if kind == RATLS:
        evidence = parse_attested_certificate(data).evidence
        kind, data = evidence.tee, evidence.data
        given = with_sent("certificate", evidence, given)
    parts: dict[str, Part | None] = {}
    have = given
    while wanted := [each for each in needs(kind, data, have) if each.name not in parts]:
        for each in wanted:  # in all stores first, so that who asks can ask for all that is missing
            parts[each.name] = next(filter(None, (store.look(each) for store in stores)), None)
        for each in wanted:
            if source is not None and parts[each.name] is None:
                parts[each.name] = source.get(each)
        if kind not in _OPEN_ENDED:
            break
        # What came may need more: manifests have signers, who may have been revoked.
        have = assemble(filter(None, parts.values()), given=given)
    return tuple(filter(None, parts.values()))


def needs(kind: str, data: bytes, given: Endorsements) -> tuple[Wanted, ...]:
    """Which parts evidence needs that aren't given.

    Args:
        kind: of the evidence.
        data: the evidence.
        given: certificates, collateral and manifests that are at hand.

    Raises:
        MalformedError: the evidence can't be read.
        UnavailableError: ``collateral.product``, ``collateral.chip`` where it doesn't say for what
            to ask.
    """
    match kind:
        case Tee.SGX | Tee.TDX:
            return _of_quote(data, given)
        case _ if kind == RATLS:
            evidence = parse_attested_certificate(data).evidence
            return needs(evidence.tee, evidence.data, with_sent("certificate", evidence, given))
        case Tee.SNP:
            return _of_snp(parse_snp_report(data), given.certificates, given)
        case Tee.AZURE_TDX:
            quote = parse_azure_evidence(data).td_quote
            return _of_quote(quote, given) if quote is not None else ()
        case Tee.AZURE_SNP:
            azure = parse_azure_evidence(data)
            sent = load_certificates(azure.vcek, what="vcek") if azure.vcek else ()
            report = parse_snp_report(azure.hcl.hardware_report)
            return _of_snp(report, (*sent, *given.certificates), given)
        case Tee.NVIDIA:
            return _of_nvidia(data, given)
        case Tee.COMPOSITE:
            return _of_members(data, given)
        case _:
            return ()


def require_vouched_for(
    kind: str, data: bytes, *, roots: VendorRoots, at: datetime.datetime
) -> None:
    """Whether a vendor vouches for the platform that evidence names, as far as that is in it.

    For whoever asks services on behalf of strangers: a quote brings its platform's certificates, so
    a forged one leads to no question. An SEV-SNP report and a GPU's don't.

    Raises:
        MalformedError: the evidence can't be read.
        NotGenuineError: ``dcap.root``, ``dcap.chain``, ``dcap.expired``, ….
    """
    if kind in (Tee.SGX, Tee.TDX):
        chain = platform_of(parse_quote(data)).chain
        verify_chain(chain, roots={intel_root(roots)}, at=at, what="dcap")


def assemble(parts: Iterable[Part], *, given: Endorsements) -> Endorsements:
    """Parts as endorsements, beside those that are given.

    Args:
        parts: those that one platform's evidence needs; of Intel's all or none.
        given: what they are added to.

    Raises:
        MalformedError: ``collateral.form``, ``endorsements.*``.
    """
    certificates: list[x509.Certificate] = []
    lists: list[x509.CertificateRevocationList] = []
    rims, responses = [], []
    intel: dict[type, Parts] = {}
    for each in parts:
        match each.wanted:
            case AmdVcek():
                certificates.append(load_certificate(part(each.parts, "body"), what="VCEK"))
                certificates += load_certificates(part(each.parts, "chain"), what="AMD's chain")
            case AmdChain():
                certificates += load_certificates(part(each.parts, "chain"), what="AMD's chain")
            case AmdCrl():
                lists += load_revocation_lists(part(each.parts, "body"), what="AMD's list")
            case NvidiaStatus():
                responses.append(parse_ocsp_response(part(each.parts, "body")))
            case NvidiaRim():
                rims.append(parse_rim(part(each.parts, "body")))
            case wanted:
                intel[type(wanted)] = each.parts
    return replace(
        given,
        certificates=tuple(dict.fromkeys((*given.certificates, *certificates))),
        revocation_lists=(*given.revocation_lists, *lists),
        rims=(*given.rims, *rims),
        ocsp_responses=(*given.ocsp_responses, *responses),
        dcap=given.dcap if given.dcap is not None else _dcap(intel),
    )


def _dcap(intel: dict[type, Parts]) -> DcapCollateral | None:
    kinds = (IntelTcb, IntelQeIdentity, IntelPckCrl, IntelRootCrl)
    if not all(kind in intel for kind in kinds):
        return None
    return collateral_of(*(intel[kind] for kind in kinds))


def _of_quote(data: bytes, given: Endorsements) -> tuple[Wanted, ...]:
    if given.dcap is not None:
        return ()
    quote = parse_quote(data)
    platform = platform_of(quote)
    tee = "sgx" if isinstance(quote.report, SgxReport) else "tdx"
    return quote_parts(tee, platform.fmspc, platform.ca)


def _of_snp(
    report: SnpReport, certificates: Sequence[x509.Certificate], given: Endorsements
) -> tuple[Wanted, ...]:
    kind = "vlek" if report.signing_key else "vcek"
    name = f"SEV-{kind.upper()}"
    leaves = [each for each in certificates if common_name(each) == name]
    product = product_of(report) or _product_of(leaves)
    wanted: list[Wanted] = []
    if kind == "vcek":
        vcek = _vcek(report, product)
        if not any(_is_of(each, vcek) for each in leaves):
            wanted.append(vcek)
    names = {common_name(each) for each in certificates}
    issuer = f"SEV-{product}" if kind == "vcek" else f"SEV-VLEK-{product}"
    if not wanted and not {issuer, f"ARK-{product}"} <= names:
        wanted.append(AmdChain(product, kind))
    if not given.revocation_lists:
        wanted.append(AmdCrl(product, kind))
    return tuple(wanted)


def _vcek(report: SnpReport, product: str) -> AmdVcek:
    if not any(report.chip_id):
        raise UnavailableError(
            "collateral.chip",
            "the report doesn't name its chip, so its certificate can't be asked for",
            field="chip_id",
            expected="the chip's id",
            got="zeros: the platform masks it",
            remedy="Give the certificate from the host's table with --endorsements.",
        )
    hardware_id = report.chip_id[:_TURIN_ID_SIZE] if product == "Turin" else report.chip_id
    return AmdVcek(
        product, hardware_id, parse_tcb_version(report.reported_tcb, turin=product == "Turin")
    )


def _is_of(leaf: x509.Certificate, wanted: AmdVcek) -> bool:
    try:
        return certified_chip(leaf) == CertifiedChip(
            product=wanted.product, hardware_id=wanted.hardware_id, tcb=wanted.tcb.parts()
        )
    except MalformedError:
        return False


def _product_of(leaves: Sequence[x509.Certificate]) -> str:
    """Reports of version 2 don't say on which processor they were made; certificates do."""
    if not leaves:
        raise UnavailableError(
            "collateral.product",
            "the report doesn't name its processor, so its certificate can't be asked for",
            field="cpuid",
            expected="a report of version 3 or later",
            got="version 2",
            remedy="Give the chip's certificate with --endorsements.",
        )
    return certified_chip(leaves[0]).product


def _of_members(data: bytes, given: Endorsements) -> tuple[Wanted, ...]:
    """Each member's, with what it brings along."""
    wanted: dict[str, Wanted] = {}
    for index, member in enumerate(parse_composite_evidence(data)):
        have = with_sent(f"members[{index}]", member, given)
        wanted |= {each.name: each for each in needs(member.tee, member.data, have)}
    return tuple(wanted.values())


def with_sent(where: str, evidence: Evidence, given: Endorsements) -> Endorsements:
    """What is given, and what evidence brings along."""
    sent = sort_endorsements(
        (f"{where}.endorsements[{number}]", item)
        for number, item in enumerate(evidence.endorsements)
    )
    return replace(
        given,
        certificates=(*sent.certificates, *given.certificates),
        rims=(*sent.rims, *given.rims),
    )


def _of_nvidia(data: bytes, given: Endorsements) -> tuple[Wanted, ...]:
    report = parse_nvidia_report(data)
    names = [common_name(each).partition(" ")[0] for each in given.certificates]
    product = next((name for name in names if name in _PRODUCTS), None)
    if product is None:
        raise UnavailableError(
            "collateral.product",
            "which GPU made the report isn't known without its certificates",
            field="device chain",
            expected=f"the certificate of a {' or '.join(_PRODUCTS)}",
            got=", ".join(names)[:120] or "none",
            remedy="Give the device's chain with --endorsements.",
        )
    versions = (report.driver_version.upper(), report.vbios_version.upper())
    mine = [rim for rim in given.rims if rim.version.upper() in versions]
    have = {rim.version.upper() for rim in mine}
    manifests = [
        NvidiaRim(each)
        for each, version in zip(manifest_ids(report, product), versions, strict=True)
        if version not in have
    ]
    asked = {status.serial_number for each in given.ocsp_responses for status in each.statuses}
    chains = [tuple(device_chain(given.certificates))[1:], *(rim.certificates for rim in mine)]
    statuses = [
        NvidiaStatus(chain[start:])
        for chain in chains
        for start in range(len(chain) - 1)
        if chain[start].serial_number not in asked
    ]
    return (*manifests, *statuses)
