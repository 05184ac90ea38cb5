"""Simulated evidence (specs/simulated-evidence.md): the form of the real thing, not its worth."""

from __future__ import annotations

from dataclasses import dataclass

from casemate.encoding import MapReader, decode_cbor, encode_cbor
from casemate.errors import MalformedError
from casemate.types import ReportData, Sha256, Sha384

MAX_SIZE = 4096
SIGNATURE_SIZE = 64
SIGNATURE_CONTEXT = b"casemate-simulated-evidence/1\x00"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReport:
    """What a simulated TEE says of its launcher.

    Args:
        measurement: SHA-384 over the launcher's own files.
        report_data: what the caller bound.
        root: SHA-256 of the DER SubjectPublicKeyInfo of the development root that signed.
        platform_id: names the simulated machine.
        svn: security version number of the launcher.
        debug: whether the launcher could be looked into.
    """

    measurement: Sha384
    report_data: ReportData
    root: Sha256
    platform_id: Sha256
    svn: int
    debug: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSimulatedReport:
    """A report, the very bytes that were signed, and the signature (Ed25519, 64 bytes)."""

    report: SimulatedReport
    signed: bytes
    signature: bytes


def encode_simulated_report(report: SimulatedReport) -> bytes:
    """The report's deterministic CBOR: what the development root signs (after the context)."""
    return encode_cbor(
        {
            "version": _VERSION,
            "measurement": bytes(report.measurement),
            "report-data": bytes(report.report_data),
            "root": bytes(report.root),
            "platform-id": bytes(report.platform_id),
            "svn": report.svn,
            "debug": report.debug,
        }
    )


def encode_simulated_evidence(signed: bytes, signature: bytes) -> bytes:
    """Put the report's bytes and their signature together."""
    return encode_cbor({"report": signed, "signature": signature})


def parse_simulated_evidence(data: bytes) -> SignedSimulatedReport:
    """Parse simulated evidence.

    Args:
        data: deterministic CBOR, at most 4096 bytes.

    Raises:
        MalformedError: where it isn't what the specification says.

    Source: specs/simulated-evidence.md, "Evidence".
    Does not check: the signature, nor who signed (`casemate.verify.simulated`).
    """
    outer = MapReader(
        decode_cbor(data, what="simulated evidence", max_size=MAX_SIZE), what="evidence"
    )
    signed, signature = outer.take("report", bytes), outer.take("signature", bytes)
    outer.finish()
    if len(signature) != SIGNATURE_SIZE:
        raise MalformedError(
            "evidence.signature-length",
            "the signature has the wrong length",
            field="signature",
            expected=f"{SIGNATURE_SIZE} bytes",
            got=f"{len(signature)} bytes",
        )
    fields = MapReader(
        decode_cbor(signed, what="simulated report", max_size=MAX_SIZE), what="report"
    )
    version = fields.take("version", int)
    if version != _VERSION:
        raise MalformedError(
            "evidence.version",
            "an unknown version of simulated evidence",
            field="version",
            expected=str(_VERSION),
            got=str(version),
            remedy="Use the same release of Casemate on both sides.",
        )
    report = SimulatedReport(
        measurement=Sha384(fields.take("measurement", bytes)),
        report_data=ReportData(fields.take("report-data", bytes)),
        root=Sha256(fields.take("root", bytes)),
        platform_id=Sha256(fields.take("platform-id", bytes)),
        svn=fields.take("svn", int),
        debug=fields.take("debug", bool),
    )
    fields.finish()
    if report.svn < 0:
        raise MalformedError(
            "evidence.svn",
            "the svn is negative",
            field="svn",
            expected="0 or more",
            got=str(report.svn),
        )
    return SignedSimulatedReport(report=report, signed=signed, signature=signature)
