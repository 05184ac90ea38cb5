"""Show what stands in a file of evidence, or of endorsements, without verifying any of it."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from casemate.collateral.bundle import parse_bundle
from casemate.encoding import JsonValue, decode_cbor, decode_json
from casemate.encoding.jose import COMPACT, decode_claims, parse_jws
from casemate.endorsements.certificates import load_certificates
from casemate.endorsements.collection import Endorsements, sort_endorsements
from casemate.endorsements.dcap import DcapCollateral
from casemate.errors import CasemateError, MalformedError
from casemate.evidence import Tee
from casemate.evidence.azure import parse_azure_evidence
from casemate.evidence.cca import parse_cca_token
from casemate.evidence.composite import parse_composite_evidence
from casemate.evidence.detect import RATLS, detect, unwrap
from casemate.evidence.ear import parse_ear
from casemate.evidence.eventlog import parse_event_log
from casemate.evidence.identity_key import parse_identity_key_evidence
from casemate.evidence.maa import parse_maa_token
from casemate.evidence.nitro import parse_nitro_document
from casemate.evidence.nvidia import parse_nvidia_report
from casemate.evidence.quote import parse_quote
from casemate.evidence.ratls import parse_attested_certificate
from casemate.evidence.simulated import parse_simulated_evidence
from casemate.evidence.snp import parse_snp_report, parse_tcb_version, product_of
from casemate.evidence.tpm import parse_tpm_evidence
from casemate.types import sha256

NOTICE = "NOTHING HERE IS VERIFIED. Anybody could have written it. To verify: casemate verify"
_LONG = 128
_MAX_JSON = 1024 * 1024
_MAX_EVENTS = 4096
_MAX_DEPTH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a file says of itself.

    Args:
        kind: of evidence, as `detect` names it; ``endorsements``, ``event-log``, ``token``.
        content: every field, JSON-ready: byte strings in hex, long ones as size and SHA-256.
    """

    kind: str
    content: JsonValue

    def as_dict(self) -> dict[str, JsonValue]:
        """A JSON-ready object; ``verified`` is false, always."""
        return {
            "kind": self.kind,
            "verified": False,
            "notice": NOTICE,
            "content": self.content,
        }


def inspect(data: bytes) -> Inspection:
    """Read a file of any kind that is known.

    Args:
        data: evidence, an attested or other certificate, a token, endorsements, an event log.

    Raises:
        MalformedError: ``inspect.unknown``, or why it isn't what it seems to be.
    """
    found = _inspect(unwrap(data))
    _require_shallow(found.content, _MAX_DEPTH)
    return found


def _inspect(content: bytes) -> Inspection:
    try:
        kind = detect(content)
    except MalformedError as error:
        return _of_others(content, error)
    if kind != RATLS:
        return Inspection(kind=kind, content=_READERS[kind](content))
    try:
        return Inspection(kind=kind, content=_certificate_with_evidence(content))
    except MalformedError:  # a certificate that carries none
        return _of_endorsements(content)


def _require_shallow(value: JsonValue, left: int) -> None:
    """Nobody reads what is nested without end, and showing it would end in an error."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if inner and not left:
        raise MalformedError(
            "inspect.unknown", "it is nested too deeply to be shown", field="evidence",
            expected=f"at most {_MAX_DEPTH} levels", got="more",
        )  # fmt: skip
    for item in inner:
        _require_shallow(item, left - 1)


def readable(value: object) -> JsonValue:
    """Any value of ours as people and JSON take it.

    Args:
        value: a frozen dataclass, or what stands in one.
    """
    match value:
        case None | bool() | int() | float():
            return value
        case enum.Enum():
            return str(value.value)
        case str():
            return value
        case bytes():
            return _bytes(value)
        case datetime.datetime():
            return value.isoformat()
        case x509.Certificate():
            return _certificate(value)
        case x509.CertificateRevocationList():
            return _revocation_list(value)
        case x509.Name():
            return value.rfc4514_string()
        case DcapCollateral():
            return _collateral(value)
        case Mapping():
            return {str(name): readable(item) for name, item in value.items()}
        case tuple() | list():
            return [readable(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return _fields(value)
        case _:  # our byte strings of fixed length, and anything that has a text
            return str(value)


def _fields(value: object) -> JsonValue:
    assert dataclasses.is_dataclass(value)
    names = [field.name for field in dataclasses.fields(value)]
    names += [name for name, item in vars(type(value)).items() if isinstance(item, property)]
    return {name: readable(getattr(value, name)) for name in names if not name.startswith("_")}


def _bytes(value: bytes) -> JsonValue:
    if len(value) <= _LONG:
        return value.hex()
    return {"bytes": len(value), "sha256": str(sha256(value))}


def _of_others(content: bytes, error: MalformedError) -> Inspection:
    if COMPACT.match(content):
        return Inspection(kind="token", content=_any_token(content))
    for kind, reader in (
        ("collateral-bundle", _bundle),
        ("endorsements", lambda data: _of_endorsements(data).content),
        ("event-log", _event_log),
        (Tee.IDENTITY_KEY.value, lambda data: readable(parse_identity_key_evidence(data))),
        ("json", lambda data: decode_json(data, what="JSON", max_size=_MAX_JSON)),
        ("cbor", lambda data: readable(decode_cbor(data, what="CBOR", max_size=_MAX_JSON))),
    ):
        try:
            return Inspection(kind=kind, content=reader(content))
        except CasemateError:
            continue
    raise MalformedError(
        "inspect.unknown",
        "this is no file of a kind that is known",
        field="evidence",
        expected="evidence, a certificate, a token, endorsements or an event log",
        got=error.got,
    ) from error


def _of_endorsements(content: bytes) -> Inspection:
    found = sort_endorsements([("the file", content)])
    if found == Endorsements():
        raise MalformedError("inspect.unknown", "no endorsements stand in it", field="evidence")
    shown = {
        field.name: readable(getattr(found, field.name))
        for field in dataclasses.fields(found)
        if getattr(found, field.name)
    }
    return Inspection(kind="endorsements", content=shown)


def _certificate(certificate: x509.Certificate) -> JsonValue:
    with warnings.catch_warnings():
        # AMD's chip certificates have the serial number 0, against RFC 5280.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        serial = certificate.serial_number
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial_number": f"{serial:x}",
        "not_before": certificate.not_valid_before_utc.isoformat(),
        "not_after": certificate.not_valid_after_utc.isoformat(),
        "key": type(certificate.public_key()).__name__.removesuffix("PublicKey"),
        "sha256": str(sha256(_der(certificate))),
        "extensions": [extension.oid.dotted_string for extension in certificate.extensions],
    }


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _revocation_list(parsed: x509.CertificateRevocationList) -> JsonValue:
    return {
        "issuer": parsed.issuer.rfc4514_string(),
        "last_update": readable(parsed.last_update_utc),
        "next_update": readable(parsed.next_update_utc),
        "revoked": [f"{entry.serial_number:x}" for entry in parsed],
    }


def _collateral(collateral: DcapCollateral) -> JsonValue:
    text = decode_json(collateral.text.encode(), what="DCAP collateral", max_size=_MAX_JSON)
    info: JsonValue = None
    if isinstance(text, dict):
        info = decode_json(str(text["tcb_info"]).encode(), what="tcb_info", max_size=_MAX_JSON)
    levels = info.get("tcbLevels") if isinstance(info, dict) else None
    return {
        "fmspc": info.get("fmspc") if isinstance(info, dict) else None,
        "valid_from": readable(collateral.valid_from),
        "valid_until": readable(collateral.valid_until),
        "ends_first": collateral.ends_first,
        "tcb_evaluation_data_number": collateral.tcb_evaluation_data_number,
        "tcb_levels": [
            {name: level.get(name) for name in ("tcbDate", "tcbStatus", "advisoryIDs")}
            for level in (levels if isinstance(levels, list) else [])
            if isinstance(level, dict)
        ],
    }


def _certificate_with_evidence(content: bytes) -> JsonValue:
    attested = parse_attested_certificate(content)
    shown = _fields(attested)
    assert isinstance(shown, dict)
    try:
        (certificate,) = load_certificates(content, what="certificate")
        shown["certificate"] = _certificate(certificate)
    except (MalformedError, ValueError):
        pass  # some implementations' own signatures can't be read, and say nothing
    shown["der"] = _bytes(attested.der)
    shown["evidence"] = {
        "tee": attested.evidence.tee.value,
        "evidence": _READERS[attested.evidence.tee](attested.evidence.data),
        "endorsements": len(attested.evidence.endorsements),
    }
    return shown


def _snp(content: bytes) -> JsonValue:
    report = parse_snp_report(content)
    shown, product = _fields(report), product_of(report)
    assert isinstance(shown, dict)
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        raw = getattr(report, name)
        shown[name] = readable(parse_tcb_version(raw, turin=product == "Turin").parts())
    return {"product": product, **shown}


def _nitro(content: bytes) -> JsonValue:
    document = parse_nitro_document(content)
    shown = _fields(document)
    assert isinstance(shown, dict)
    ders = (document.certificate, *document.cabundle)
    shown["certificates"] = [
        _certificate(load_certificates(der, what="Nitro certificate")[0]) for der in ders
    ]
    return shown


def _bundle(content: bytes) -> JsonValue:
    bundle = parse_bundle(content)
    return {
        "signed_by": str(sha256(bundle.key)),
        "created": readable(bundle.created),
        "expires": readable(bundle.expires),
        "parts": [
            {"name": entry.name, "asked": readable(entry.asked), "parts": readable(entry.parts)}
            for entry in bundle.entries.values()
        ],
    }


def _azure(content: bytes) -> JsonValue:
    evidence = parse_azure_evidence(content)
    shown = _fields(evidence)
    assert isinstance(shown, dict)
    if evidence.td_quote is not None:
        shown["td_quote"] = readable(parse_quote(evidence.td_quote))
    else:
        shown["snp_report"] = _snp(evidence.hcl.hardware_report)
    return shown


def _any_token(content: bytes) -> JsonValue:
    jws = parse_jws(content, what="token", max_size=_MAX_JSON)
    return {
        "algorithm": jws.algorithm,
        "key_id": jws.key_id,
        "claims": dict(decode_claims(jws, what="token")),
    }


def _event_log(content: bytes) -> JsonValue:
    events = parse_event_log(content)
    if not events:
        raise MalformedError("inspect.unknown", "no event stands in it", field="evidence")
    return [readable(event) for event in events[:_MAX_EVENTS]]


def _reader(parse: Callable[[bytes], object]) -> Callable[[bytes], JsonValue]:
    return lambda content: readable(parse(content))


def _token(parse: Callable[[bytes], object]) -> Callable[[bytes], JsonValue]:
    def read(content: bytes) -> JsonValue:
        shown = _any_token(content)
        try:
            parse(content)
        except MalformedError as error:
            assert isinstance(shown, dict)
            shown["not_as_specified"] = str(error)
        return shown

    return read


def _composite(content: bytes) -> JsonValue:
    return [
        {
            "tee": member.tee.value,
            "evidence": _READERS[member.tee](member.data),
            "endorsements": len(member.endorsements),
        }
        for member in parse_composite_evidence(content)
    ]


_READERS: Mapping[str, Callable[[bytes], JsonValue]] = {
    Tee.SGX: _reader(parse_quote),
    Tee.TDX: _reader(parse_quote),
    Tee.SNP: _snp,
    Tee.NITRO: _nitro,
    Tee.TPM: _reader(parse_tpm_evidence),
    Tee.AZURE_SNP: _azure,
    Tee.AZURE_TDX: _azure,
    Tee.NVIDIA: _reader(parse_nvidia_report),
    Tee.CCA: _reader(parse_cca_token),
    Tee.MAA: _token(parse_maa_token),
    Tee.EAR: _token(parse_ear),
    Tee.SIMULATED: _reader(parse_simulated_evidence),
    Tee.COMPOSITE: _composite,
}
