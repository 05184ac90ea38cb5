"""Verify AMD SEV-SNP reports.

 1. The report parses (`casemate.evidence.snp`).
 2. The leaf is of the kind that the report names: VCEK of a chip, or VLEK of a cloud provider.
 3. Its chain ends in AMD's pinned root of the product that the processor's family and model say.
 4. Neither it nor its issuer is revoked, as far as revocation lists are at hand.
 5. The chip that the VCEK belongs to is the report's.
 6. The TCB that the leaf was derived for is the report's *reported* TCB, exactly.
 7. The leaf's key signed the report.

Source: AMD 56860 and 57230 (see `casemate.evidence.snp`).
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.utils import CryptographyDeprecationWarning

from casemate.errors import MalformedError, NotGenuineError, UnavailableError
from casemate.evidence import Tee
from casemate.evidence.snp import (
    SnpReport,
    TcbVersion,
    parse_snp_report,
    parse_tcb_version,
    product_of,
)
from casemate.types import Sha256
from casemate.verify.chain import check_revocation, verify_chain
from casemate.verify.checks import CheckList
from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.roots import AMD_ROOTS

_AMD = "1.3.6.1.4.1.3704.1"
_PRODUCT = f"{_AMD}.2"
_HARDWARE_ID = f"{_AMD}.4"
_CSP_ID = f"{_AMD}.5"
_PARTS = {
    "bootloader": f"{_AMD}.3.1",
    "tee": f"{_AMD}.3.2",
    "snp": f"{_AMD}.3.3",
    "microcode": f"{_AMD}.3.8",
    "fmc": f"{_AMD}.3.9",
}
_SIGNERS = ("vcek", "vlek")
_COMMON_NAMES = {"vcek": "SEV-VCEK", "vlek": "SEV-VLEK"}
_INTEGER, _OCTETS, _IA5 = 0x02, 0x04, 0x16


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedChip:
    """What a VCEK says of its chip.

    Args:
        product: ``Milan``, ``Genoa`` or ``Turin``, without stepping.
        hardware_id: 64 bytes, of Turin 8.
        tcb: component to version, as `TcbVersion.parts` names them.
    """

    product: str
    hardware_id: bytes
    tcb: dict[str, int]


def certified_chip(leaf: x509.Certificate) -> CertifiedChip:
    """Read what a VCEK says.

    Raises:
        MalformedError: ``snp.extension``.

    Does not check: who issued it.
    """
    product = _text(leaf, _PRODUCT).split("-")[0]
    names = [name for name in _PARTS if name != "fmc"]
    names = ["fmc", *names] if product == "Turin" else names
    return CertifiedChip(
        product=product,
        hardware_id=_octets(leaf, _HARDWARE_ID),
        tcb={name: _integer(leaf, _PARTS[name]) for name in names},
    )


def verify_snp(
    data: bytes,
    *,
    certificates: Sequence[x509.Certificate],
    revocation_lists: Sequence[x509.CertificateRevocationList] = (),
    at: datetime.datetime,
    roots: Mapping[str, Sha256] = AMD_ROOTS,
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a report.

    Args:
        data: the report, 1184 bytes.
        certificates: VCEK or VLEK, ASK or ASVK, and ARK, in any order; others are ignored.
        revocation_lists: AMD's, of the product. Without one, revocation isn't known: the claim
            ``revocation`` says so, and a policy may demand it.
        at: the time at which all must be valid.
        roots: fingerprint of the ARK by product; AMD's own if not given.
        checks: collects the checks; a caller that keeps it sees them after a failure too.

    Returns:
        The report, with AMD's names as claims.

    Raises:
        MalformedError: the report or a certificate's extension can't be read.
        UnavailableError: ``snp.no-certificate`` where the leaf or an issuer isn't among them.
        NotGenuineError: ``snp.*``.

    Does not check: what ``report_data`` binds, the measurement, or any policy.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("snp.report", "the report has the form that AMD's firmware gives it"):  # 1
        report = parse_snp_report(data)
    signer = _SIGNERS[report.signing_key]
    with checks.check("snp.signer", "the leaf is of the kind that the report names"):  # 2
        chain = _chain(certificates, report, signer)
        leaf = chain[0]
        product = _product(report, leaf)
        if product not in roots:
            raise _refusal("product", " or ".join(sorted(roots)), product)
    with checks.check("snp.chain", "the leaf's chain ends in AMD's root of the product"):  # 3
        verify_chain(chain, roots={roots[product]}, at=at, what="snp")
    if revocation_lists:  # 4
        with checks.check("snp.revocation", "AMD revoked neither the leaf nor its issuer"):
            _check_revoked(chain, revocation_lists, at)
    if signer == "vcek":  # 5
        with checks.check("snp.chip", "the leaf belongs to the chip that made the report"):
            _check_chip(report, leaf)
    with checks.check("snp.tcb", "the leaf was derived for the TCB that the report names"):  # 6
        tcb = _check_tcb(report, leaf, turin=product == "Turin")
    with checks.check("snp.signature", "the leaf's key signed the report"):  # 7
        _check_signature(report, leaf)
    claims = _claims(report, product, signer, tcb, revocation=bool(revocation_lists))
    if revocation_lists:
        mine = [e.last_update_utc for e in revocation_lists if e.issuer == chain[-1].subject]
        claims["revocation_age_days"] = (at - max(mine)).days
    if signer == "vlek":
        claims["csp_id"] = _text(leaf, _CSP_ID)
    return VerifiedReport(
        tee=Tee.SNP, report_data=report.report_data, claims=claims, checks=checks.done()
    )


def _chain(
    certificates: Iterable[x509.Certificate], report: SnpReport, signer: str
) -> list[x509.Certificate]:
    """The leaf and its issuers, by name; who really signed is verified later."""
    certificates = list(dict.fromkeys(certificates))
    leaves = [each for each in certificates if _common_name(each) == _COMMON_NAMES[signer]]
    if len(leaves) > 1 and signer == "vcek":  # a collection of several chips', or TCBs'
        leaves = [each for each in leaves if _is_of(each, report)]
    if len(leaves) != 1:
        raise UnavailableError(
            "snp.no-certificate",
            f"the report is signed by a {signer.upper()}, which isn't at hand",
            field=signer,
            expected=f"one {signer.upper()} certificate",
            got=f"{len(leaves)}",
            remedy="Fetch it from AMD's KDS by chip id and reported TCB, or take it from the "
            "host's certificate table.",
        )
    chain = leaves
    while chain[-1].issuer != chain[-1].subject:
        issuers = [each for each in certificates if each.subject == chain[-1].issuer]
        if len(issuers) != 1 or len(chain) > 2:
            raise UnavailableError(
                "snp.no-certificate",
                "an issuer of the leaf isn't at hand",
                field="chain",
                expected=chain[-1].issuer.rfc4514_string()[:120],
                got=f"{len(issuers)} of that name",
                remedy="Give AMD's ASK (or ASVK) and ARK of the product.",
            )
        chain = [*chain, issuers[0]]
    return chain


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _product(report: SnpReport, leaf: x509.Certificate) -> str:
    """The product line, from the processor; of version 2 reports, from the leaf alone."""
    certified = _text(leaf, _PRODUCT).split("-")[0]
    reported = product_of(report)
    if reported is not None and certified != reported:
        raise _refusal("product", reported, certified)
    return certified


def _check_revoked(
    chain: Sequence[x509.Certificate],
    lists: Sequence[x509.CertificateRevocationList],
    at: datetime.datetime,
) -> None:
    # AMD's root revokes issuers; leaves are replaced, not revoked, so a list of the issuer's own
    # counts only where there is one.
    check_revocation(chain[-2], chain[-1], lists, at=at, what="snp")
    if any(each.issuer == chain[-2].subject for each in lists):
        check_revocation(chain[0], chain[1], lists, at=at, what="snp")


def _is_of(leaf: x509.Certificate, report: SnpReport) -> bool:
    """Whether rules 5 and 6 would hold for a leaf."""
    try:
        _check_chip(report, leaf)
        _check_tcb(report, leaf, turin=_product(report, leaf) == "Turin")
    except (MalformedError, NotGenuineError):
        return False
    return True


def _check_chip(report: SnpReport, leaf: x509.Certificate) -> None:
    hardware_id = _octets(leaf, _HARDWARE_ID)
    if not any(report.chip_id):
        raise _refusal("chip_id", "the chip's id", "zeros: the platform masks it")
    if report.chip_id != hardware_id.ljust(len(report.chip_id), b"\0"):
        raise _refusal("chip_id", hardware_id.hex(), report.chip_id.hex())


def _check_tcb(report: SnpReport, leaf: x509.Certificate, *, turin: bool) -> TcbVersion:
    reported = parse_tcb_version(report.reported_tcb, turin=turin)
    certified = {name: _integer(leaf, _PARTS[name]) for name in reported.parts()}
    if certified != reported.parts():
        raise _refusal("reported_tcb", str(certified), str(reported.parts()))
    return reported


def _check_signature(report: SnpReport, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise _refusal("leaf key", "P-384", type(key).__name__)
    try:
        signature = encode_dss_signature(report.signature_r, report.signature_s)
        key.verify(signature, report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise NotGenuineError(
            "snp.signature",
            "the signature of the report doesn't hold",
            field="signature",
            remedy="Nothing can repair it: the report was changed, or another chip made it.",
        ) from error


def _claims(
    report: SnpReport, product: str, signer: str, tcb: TcbVersion, *, revocation: bool
) -> dict[str, ClaimValue]:
    turin = product == "Turin"
    claims: dict[str, ClaimValue] = {
        "version": report.version,
        "product": product,
        "signer": signer,
        "vmpl": report.vmpl,
        "policy": f"{report.policy:#x}",
        "debug": report.debug,
        "migration_agent": report.migration_agent,
        "smt_allowed": report.smt_allowed,
        "single_socket": report.single_socket,
        "abi_major": report.abi[0],
        "abi_minor": report.abi[1],
        "abi": f"{report.abi[0]}.{report.abi[1]}",
        "guest_policy": report.policy,
        "measurement": report.measurement,
        "host_data": report.host_data,
        "family_id": report.family_id,
        "image_id": report.image_id,
        "guest_svn": report.guest_svn,
        "id_key_digest": report.id_key_digest,
        "author_key_digest": report.author_key_digest,
        "report_id": report.report_id,
        "chip_id": report.chip_id,
        "platform_info": report.platform_info,
        "firmware": f"{report.current_major}.{report.current_minor}.{report.current_build}",
        "committed_firmware": f"{report.committed_major}.{report.committed_minor}."
        f"{report.committed_build}",
        "reported_tcb": tcb.parts(),
        "committed_tcb": parse_tcb_version(report.committed_tcb, turin=turin).parts(),
        "current_tcb": parse_tcb_version(report.current_tcb, turin=turin).parts(),
        "launch_tcb": parse_tcb_version(report.launch_tcb, turin=turin).parts(),
        "revocation": "checked" if revocation else "unknown",
    }
    if report.launch_mit_vector is not None and report.current_mit_vector is not None:
        claims["launch_mit_vector"] = report.launch_mit_vector
        claims["current_mit_vector"] = report.current_mit_vector
    return claims


def _extension(certificate: x509.Certificate, dotted: str) -> bytes:
    oid = x509.ObjectIdentifier(dotted)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            value = certificate.extensions.get_extension_for_oid(oid).value
    except x509.ExtensionNotFound:
        raise _bad_extension(dotted, "an extension", "none") from None
    if not isinstance(value, x509.UnrecognizedExtension):
        raise _bad_extension(dotted, "AMD's extension", type(value).__name__)
    return value.value


def _integer(certificate: x509.Certificate, dotted: str) -> int:
    content = _der(_extension(certificate, dotted), _INTEGER, dotted)
    value = int.from_bytes(content, "big", signed=True)
    if not 0 <= value <= 0xFF or len(content) > 2:
        raise _bad_extension(dotted, "0 to 255", content.hex())
    return value


def _text(certificate: x509.Certificate, dotted: str) -> str:
    content = _der(_extension(certificate, dotted), _IA5, dotted)
    if not content.isascii() or not content.decode("ascii").isprintable():
        raise _bad_extension(dotted, "printable ASCII", content.hex())
    return content.decode("ascii")


def _octets(certificate: x509.Certificate, dotted: str) -> bytes:
    """The hardware id: plain bytes on Milan and Turin, an OCTET STRING in some certificates."""
    value = _extension(certificate, dotted)
    if len(value) in (8, 64):
        return value
    return _der(value, _OCTETS, dotted)


def _der(value: bytes, tag: int, dotted: str) -> bytes:
    """The content of a short DER value."""
    if len(value) < 3 or value[0] != tag or value[1] > 0x7F or value[1] != len(value) - 2:
        raise _bad_extension(dotted, f"a short DER value, tag {tag:#04x}", value[:16].hex())
    return value[2:]


def _bad_extension(dotted: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "snp.extension",
        f"the leaf's extension {dotted} can't be used",
        field=dotted,
        expected=expected,
        got=got,
    )


def _refusal(field: str, expected: str, got: str) -> NotGenuineError:
    return NotGenuineError(
        f"snp.{field.replace('_', '-').replace(' ', '-')}",
        f"report and certificate disagree on the {field}",
        field=field,
        expected=expected,
        got=got,
        remedy="Fetch the certificate of the chip and TCB that the report names.",
    )
