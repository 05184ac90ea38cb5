"""Lines of a broker's audit trail, read again to explain a refusal.

Source: specs/key-broker.md, "Audit trail". Nothing that is read here is ever released upon.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass

from casemate.encoding import JsonValue, decode_hex, decode_json
from casemate.errors import MalformedError, Mismatch, UsageError
from casemate.evidence import Tee
from casemate.policy import FIELDS
from casemate.policy.kinds import Kind
from casemate.types import ReportData, Sha384
from casemate.verify import ClaimValue, VerifiedReport

_MAX_LINE = 1024 * 1024
_OF_BYTES = (Kind.DIGEST, Kind.SVNS, Kind.FLAGS, Kind.DATA, Kind.PUBLIC_KEY)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRefusal:
    """A refusal, as the trail tells it.

    Args:
        at: when.
        tee: whose evidence, if it was genuine.
        error: why, without mismatches.
        mismatches: each, if a policy said no.
        report: what the evidence claimed, if it was genuine.
        launch: the contract's digest, if the evidence bound one.
        secrets: what was asked for; None of a channel.
    """

    at: datetime.datetime
    tee: str | None
    error: Mapping[str, JsonValue]
    mismatches: tuple[Mismatch, ...]
    report: VerifiedReport | None
    launch: Sha384 | None
    secrets: tuple[str, ...] | None


def parse_refusal(line: Mapping[str, JsonValue]) -> AuditedRefusal:
    """Read a line.

    Raises:
        MalformedError: ``explain.line`` where it is none of a refusal.
    """
    error = line.get("error")
    if line.get("event") != "refused" or not isinstance(error, dict):
        raise _malformed("event", "refused, with an error", str(line.get("event"))[:40])
    claims, report = line.get("claims"), line.get("report")
    secrets, found = line.get("secrets"), error.get("mismatches")
    return AuditedRefusal(
        at=_time(line.get("time")),
        tee=str(claims.get("tee")) if isinstance(claims, dict) else None,
        error={name: value for name, value in error.items() if name != "mismatches"},
        mismatches=tuple(_mismatch(each) for each in (found if isinstance(found, list) else [])),
        report=_report(report) if isinstance(report, dict) else None,
        launch=_launch(report) if isinstance(report, dict) else None,
        secrets=tuple(str(name) for name in secrets) if isinstance(secrets, list) else None,
    )


def choose_line(text: bytes, correlation_id: str | None) -> dict[str, JsonValue]:
    """The last refusal in an audit trail, or that of one connection.

    Raises:
        MalformedError: ``explain.line`` where the text isn't an audit trail.
        UsageError: ``explain.no-refusal`` where it has no such refusal.
    """
    chosen: dict[str, JsonValue] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        value = decode_json(line, what=f"line {number}", max_size=_MAX_LINE)
        if not isinstance(value, dict) or "correlation_id" not in value:
            raise _malformed(f"line {number}", "an object with correlation_id", "something else")
        if value.get("event") == "refused" and correlation_id in (None, value["correlation_id"]):
            chosen = value
    if chosen is None:
        raise UsageError(
            "explain.no-refusal",
            "the audit trail has no such refusal",
            field="--id",
            expected=correlation_id or "a line with event refused",
            got="none",
        )
    return chosen


def is_audit_trail(data: bytes) -> bool:
    """Whether a file is an audit trail rather than evidence: by its first line alone."""
    first = data.lstrip().split(b"\n", 1)[0]
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and {"event", "correlation_id"} <= set(value)


def _report(value: Mapping[str, JsonValue]) -> VerifiedReport:
    """A report from an audit line. It is replayed, never released upon."""
    tee, claims = value.get("tee"), value.get("claims")
    if not isinstance(tee, str) or tee not in {each.value for each in FIELDS}:
        raise _malformed("report.tee", "a TEE that policies know", str(tee)[:40])
    gpus = value.get("gpus", [])
    if not isinstance(gpus, list):
        raise _malformed("report.gpus", "a list", type(gpus).__name__)
    return VerifiedReport(
        tee=Tee(tee),
        report_data=ReportData(bytes(ReportData.length)),
        claims=_claims(Tee(tee), claims),
        gpus=tuple(
            VerifiedReport(
                tee=Tee.NVIDIA,
                report_data=ReportData(bytes(ReportData.length)),
                claims=_claims(Tee.NVIDIA, gpu),
            )
            for gpu in gpus
        ),
    )


def _claims(tee: Tee, claims: JsonValue) -> dict[str, ClaimValue]:
    if not isinstance(claims, dict):
        raise _malformed("report.claims", "an object", type(claims).__name__)
    kinds = {field.name: field.kind for field in FIELDS[tee]}
    return {name: _claim(name, claim, kinds.get(name)) for name, claim in claims.items()}


def _claim(name: str, value: JsonValue, kind: Kind | None) -> ClaimValue:
    match value:
        case str() if kind in _OF_BYTES:
            return decode_hex(value, field=f"report.claims.{name}")
        case bool() | int() | str():
            return value
        case list():
            return tuple(str(item) for item in value)
        case dict():
            return {key: item for key, item in value.items() if isinstance(item, int)}
        case _:
            raise _malformed(f"report.claims.{name}", "a claim", type(value).__name__)


def _launch(value: Mapping[str, JsonValue]) -> Sha384 | None:
    launch = value.get("launch")
    return Sha384(decode_hex(launch, field="report.launch")) if isinstance(launch, str) else None


def _mismatch(value: JsonValue) -> Mismatch:
    def text(name: str) -> str:
        found = value.get(name) if isinstance(value, dict) else None
        if not isinstance(found, str):
            raise _malformed(f"error.mismatches.{name}", "a text", type(found).__name__)
        return found

    return Mismatch(
        where=text("where"),
        field=text("field"),
        expected=text("expected"),
        got=text("got"),
        remedy=text("remedy"),
    )


def _time(value: JsonValue) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError as error:
        raise _malformed("time", "ISO 8601", str(value)[:40]) from error
    if moment.tzinfo is None:
        raise _malformed("time", "a time with its zone", str(value)[:40])
    return moment


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "explain.line",
        "this isn't a line of an audit trail that can be explained",
        field=field,
        expected=expected,
        got=got,
        remedy="Give a broker's audit file (casemate broker --audit), or evidence with --policy.",
    )
