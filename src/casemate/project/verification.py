"""Verify evidence from files, hold it against what was asked for, and report all of it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import CasemateError, NotAcceptableError, NotGenuineError, UsageError
from casemate.evidence.detect import detect, unwrap
from casemate.evidence.eventlog import parse_event_log
from casemate.policy import PolicyDocument, appraise
from casemate.project.files import read_file, read_text
from casemate.verify.anything import verify_anything
from casemate.verify.checks import Check, CheckList
from casemate.verify.report import ClaimValue, VerifiedReport

JsonClaim = bool | int | str | list[str] | dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What evidence must bind, and under which policy it must be acceptable.

    Args:
        report_data: the first bytes of the report data.
        nonce: the qualifying data, or the nonce, of evidence that has one.
        policy: a policy document's file; one of its policies must hold.
    """

    report_data: bytes | None = None
    nonce: bytes | None = None
    policy: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a verification.

    Args:
        tee: the kind of evidence, or None where that isn't known.
        genuine: whether every check held.
        acceptable: whether the policy accepts it; None without one, or where it isn't genuine.
        claims: of genuine evidence.
        checks: each that was made.
        error: what it failed on, or None.
    """

    tee: str | None
    genuine: bool
    acceptable: bool | None
    claims: Mapping[str, ClaimValue]
    checks: tuple[Check, ...]
    error: CasemateError | None

    def as_dict(self) -> dict[str, object]:
        """The outcome as a JSON-ready object."""
        return {
            "tee": self.tee,
            "genuine": self.genuine,
            "acceptable": self.acceptable,
            "claims": {name: as_json(value) for name, value in self.claims.items()},
            "checks": [
                {"name": check.name, "held": check.held, "purpose": check.purpose}
                for check in self.checks
            ],
            "error": self.error.as_dict() if self.error is not None else None,
        }


def verify_file(
    evidence: Path,
    *,
    tee: str | None,
    endorsements: Sequence[Path],
    eventlog: Path | None,
    at: datetime.datetime,
    expected: Expected,
) -> Outcome:
    """Verify the evidence in a file.

    Args:
        evidence: the file.
        tee: its kind, or None to find out.
        endorsements: files, in any order.
        eventlog: a log to hold against the registers.
        at: the time at which all must be valid.
        expected: what it must bind, and the policy.

    Returns:
        What came of it; errors of evidence are in it, and not raised.

    Raises:
        UsageError: a file can't be read, or the policy isn't one.
        MalformedError: the policy is wrong.
    """
    data = unwrap(read_file(evidence, field="evidence"))
    files = [(str(path), read_file(path, field="--endorsements")) for path in endorsements]
    log = read_file(eventlog, field="--eventlog") if eventlog is not None else None
    policy = (
        PolicyDocument.parse(read_text(expected.policy, field="--policy"))
        if expected.policy is not None
        else None
    )
    kind, checks = tee, CheckList()
    report: VerifiedReport | None = None
    try:
        kind = kind or detect(data)
        report = verify_anything(
            kind,
            data,
            endorsements=sort_endorsements(files),
            at=at,
            eventlog=parse_event_log(log) if log is not None else None,
            development_roots=policy.trust_anchors().development_roots if policy else (),
            checks=checks,
        )
        _check_bound(report, expected, checks)
    except UsageError:
        raise
    except CasemateError as error:
        return Outcome(
            tee=kind, genuine=False, acceptable=None, claims={}, checks=checks.done(), error=error
        )
    refusal = _appraise(policy, report, at)
    return Outcome(
        tee=kind,
        genuine=True,
        acceptable=None if policy is None else refusal is None,
        claims=report.claims,
        checks=checks.done(),
        error=refusal,
    )


def as_json(value: ClaimValue) -> JsonClaim:
    """A claim as JSON: bytes in hex, lists and mappings as they are."""
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value


def _check_bound(report: VerifiedReport, expected: Expected, checks: CheckList) -> None:
    for what, wanted in (("report-data", expected.report_data), ("nonce", expected.nonce)):
        if wanted is None:
            continue
        got = bytes(report.report_data)
        if what == "nonce" and isinstance(own := report.claims.get("nonce"), bytes):
            got = own
        with checks.check(f"evidence.{what}", f"the evidence binds the {what} that was asked for"):
            if len(wanted) > len(got) or got != wanted.ljust(len(got), b"\0"):
                raise NotGenuineError(
                    f"evidence.{what}",
                    "the evidence binds something else: it was made for another occasion",
                    field=what,
                    expected=wanted.hex(),
                    got=got.hex(),
                    remedy="Have it made again, for this occasion.",
                )


def _appraise(
    policy: PolicyDocument | None, report: VerifiedReport, at: datetime.datetime
) -> NotAcceptableError | None:
    """None where one of the policies holds, or there's none; else every mismatch."""
    refusals = []
    for each in policy.policies.values() if policy is not None else ():
        try:
            appraise(each, report, launch=None, at=at)
        except NotAcceptableError as error:
            refusals.append(error)
        else:
            return None
    if not refusals:
        return None
    mismatches = tuple(mismatch for error in refusals for mismatch in error.mismatches)
    return NotAcceptableError(
        "policy.mismatch",
        "no policy of the document holds",
        field=mismatches[0].field,
        mismatches=mismatches,
        remedy=mismatches[0].remedy,
    )
