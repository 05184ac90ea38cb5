"""Verify evidence from files, hold it against what was asked for, and report all of it."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.endorsements.collection import Endorsements
from casemate.errors import (
    CasemateError,
    NotAcceptableError,
    NotGenuineError,
    UsageError,
)
from casemate.evidence import Tee
from casemate.evidence.detect import detect, unwrap
from casemate.evidence.ear import Status
from casemate.evidence.eventlog import LoggedEvent, parse_event_log
from casemate.policy import AppraisedReport, PolicyDocument, appraise
from casemate.project.collateral import NOWHERE, Place, load_given
from casemate.project.files import read_file, read_text
from casemate.protocol.binding import Claims, parse_claims, report_data_for
from casemate.types import Sha256, Sha384
from casemate.verify.anything import verify_anything
from casemate.verify.checks import Check, CheckList
from casemate.verify.forecast import Forecast, forecast_end, forecast_recovery, known_ends
from casemate.verify.ratls import check_own_word
from casemate.verify.report import ClaimValue, VerifiedReport, claim_as_json
from casemate.verify.roots import VENDOR_ROOTS, VendorRoots


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What evidence must bind, and under which policy it must be acceptable.

    Args:
        report_data: the first bytes of the report data.
        nonce: the qualifying data, or the nonce, of evidence that has one; that of the claims
            buffer, where one is given.
        claims: the claims buffer that it must bind, as `casemate evidence` writes it.
        key: SHA-256 of the SubjectPublicKeyInfo of the key that it must be about.
        policy: a policy document's file; one of its policies must hold, of a server's certificate
            all.
        server: whether it is the certificate of a server, whose names and times count too.
        max_age: how long ago such a certificate may begin.
    """

    report_data: bytes | None = None
    nonce: bytes | None = None
    claims: bytes | None = None
    key: Sha256 | None = None
    policy: Path | None = None
    server: bool = False
    max_age: datetime.timedelta | None = None


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
        report: of genuine evidence.
        appraised: of acceptable evidence.
        endorsements: what genuine evidence was held against, all of it.
        forecast: when it won't pass any more, as far as that was asked for.
    """

    tee: str | None
    genuine: bool
    acceptable: bool | None
    claims: Mapping[str, ClaimValue]
    checks: tuple[Check, ...]
    error: CasemateError | None
    report: VerifiedReport | None = None
    appraised: AppraisedReport | None = None
    endorsements: Endorsements | None = None
    forecast: tuple[Forecast, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The outcome as a JSON-ready object; ``gpus`` and ``forecast`` if there are any."""
        gpus = [
            {name: claim_as_json(value) for name, value in gpu.claims.items()}
            for gpu in (self.report.gpus if self.report is not None else ())
        ]
        report: dict[str, object] = {
            "tee": self.tee,
            "genuine": self.genuine,
            "acceptable": self.acceptable,
            "claims": {name: claim_as_json(value) for name, value in self.claims.items()},
            "checks": [
                {"name": check.name, "held": check.held, "purpose": check.purpose}
                for check in self.checks
            ],
            "error": self.error.as_dict() if self.error is not None else None,
        }
        if gpus:
            report["gpus"] = gpus
        if self.forecast:
            report["forecast"] = [each.as_dict() for each in self.forecast]
        return report


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """All that evidence is held against, read and parsed once.

    Args:
        tee: the kind of evidence, or None to find out.
        endorsements: what came along.
        eventlog: a log to hold against the registers.
        at: the time at which all must be valid.
        expected: what evidence must bind.
        policy: the policy document, if any.
        complete: adds to the endorsements what evidence of a kind needs, from bundles or services.
        roots: the vendors'; others only in tests with authorities of their own.
    """

    tee: str | None
    endorsements: Endorsements
    eventlog: tuple[LoggedEvent, ...] | None
    at: datetime.datetime
    expected: Expected
    policy: PolicyDocument | None
    complete: Callable[[str, bytes], Endorsements] | None = None
    roots: VendorRoots = VENDOR_ROOTS

    @classmethod
    def load(
        cls,
        *,
        tee: str | None,
        endorsements: Sequence[Path],
        eventlog: Path | None,
        at: datetime.datetime,
        expected: Expected,
        bundle_keys: Sequence[Path] = (),
        place: Place = NOWHERE,
    ) -> Verification:
        """Read the files.

        Args:
            endorsements: files, bundles among them, in any order.
            eventlog: a log's file.
            bundle_keys: public keys of whose bundles are taken; anybody's without.
            place: where what is missing is had from.

        Raises:
            UsageError: a file can't be read.
            MalformedError: one isn't what it should be.
        """
        log = read_file(eventlog, field="--eventlog") if eventlog is not None else None
        policy = expected.policy
        given = load_given(endorsements, bundle_keys=bundle_keys, at=at)
        return cls(
            tee=tee,
            endorsements=given.endorsements,
            eventlog=tuple(parse_event_log(log)) if log is not None else None,
            at=at,
            expected=expected,
            policy=PolicyDocument.parse(read_text(policy, field="--policy")) if policy else None,
            complete=given.completion(place, lambda: at),
        )

    def verify(self, data: bytes) -> Outcome:
        """Verify evidence.

        Returns:
            What came of it; errors of evidence are in it, and not raised.

        Raises:
            UsageError: evidence of that kind isn't verified like this.
        """
        data, checks = unwrap(data), CheckList()
        kind = self.tee
        try:
            kind = kind or detect(data)
            endorsements = self.endorsements
            if self.complete is not None:
                with checks.check("collateral", "what the vendor says now is at hand"):
                    endorsements = self.complete(kind, data)
            report = verify_anything(
                kind,
                data,
                endorsements=endorsements,
                at=self.at,
                eventlog=self.eventlog,
                development_roots=self.policy.trust_anchors().development_roots
                if self.policy
                else (),
                roots=self.roots,
                checks=checks,
            )
            if self.expected.server:
                check_own_word(data, at=self.at, max_age=self.expected.max_age, checks=checks)
            claims = _check_bound(report, self.expected, checks)
        except UsageError:
            raise
        except CasemateError as error:
            return Outcome(
                tee=kind,
                genuine=False,
                acceptable=None,
                claims={},
                checks=checks.done(),
                error=error,
            )
        launch = claims.launch if claims is not None else _launch_of(report)
        verdict = _appraise(self.policy, report, self.at, launch, every=self.expected.server)
        refusal = verdict if isinstance(verdict, NotAcceptableError) else None
        return Outcome(
            tee=kind,
            genuine=True,
            acceptable=None if verdict is None else refusal is None,
            claims=report.claims,
            checks=checks.done(),
            error=refusal,
            report=report,
            appraised=verdict if isinstance(verdict, AppraisedReport) else None,
            endorsements=endorsements,
        )

    def foretell(self, data: bytes, outcome: Outcome, *, within: datetime.timedelta) -> Outcome:
        """Say when evidence that passes now won't pass any more.

        Args:
            data: the evidence.
            outcome: what came of it now.
            within: how far to look ahead.
        """
        used = outcome.endorsements
        if outcome.error is not None or used is None or not within:
            return outcome
        same = replace(self, endorsements=used, complete=None)
        found = [
            forecast_end(
                lambda moment: replace(same, at=moment).verify(data).error,
                at=self.at,
                within=within,
                ends=known_ends(used),
            )
        ]
        if (early := used.dcap_early) is not None:
            later = replace(same, endorsements=replace(used, dcap=early)).verify(data)
            claims = later.claims if later.genuine else None
            found.append(forecast_recovery(outcome.claims, claims, later.error))
        return replace(outcome, forecast=tuple(each for each in found if each is not None))


def as_one(outcomes: Mapping[str, Outcome]) -> dict[str, object]:
    """Several outcomes as one JSON-ready object: it is genuine if all are, and so on."""
    if len(outcomes) == 1:
        return next(iter(outcomes.values())).as_dict()
    every = outcomes.values()
    kinds = {outcome.tee for outcome in every}
    judged = [outcome.acceptable for outcome in every]
    first = next((outcome.error for outcome in every if outcome.error is not None), None)
    return {
        "tee": kinds.pop() if len(kinds) == 1 else None,
        "genuine": all(outcome.genuine for outcome in every),
        "acceptable": False if False in judged else None if None in judged else True,
        "claims": {},
        "checks": [],
        "error": first.as_dict() if first is not None else None,
        "evidence": [{"file": name, **outcome.as_dict()} for name, outcome in outcomes.items()],
    }


def _check_bound(report: VerifiedReport, expected: Expected, checks: CheckList) -> Claims | None:
    """Hold evidence against what was asked for; returns the claims that it is seen to bind."""
    claims: Claims | None = None
    if expected.claims is not None:
        with checks.check("evidence.claims", "the evidence binds the claims that came with it"):
            claims = parse_claims(expected.claims)
            digest = report_data_for(expected.claims)
            if report.report_data != digest:
                raise _other_occasion("claims", digest, report.report_data)
    for what, wanted in (("report-data", expected.report_data), ("nonce", expected.nonce)):
        if wanted is None:
            continue
        got = bytes(report.report_data)
        own = report.claims.get("nonce")
        if what == "nonce" and claims is not None and report.tee is not Tee.EAR:
            got = claims.nonce or b""
        elif what == "nonce" and (isinstance(own, bytes) or report.tee is Tee.EAR):
            got = own if isinstance(own, bytes) else b""  # a result's nonce is the reader's alone
        with checks.check(f"evidence.{what}", f"the evidence binds the {what} that was asked for"):
            if not got or len(wanted) > len(got) or got != wanted.ljust(len(got), b"\0"):
                raise _other_occasion(what, wanted, got)
    if expected.key is not None:
        about = key_of(report, claims)
        with checks.check("evidence.key", "the evidence is about the key that was asked for"):
            if about != expected.key:
                raise _other_occasion("key", expected.key, about or b"")
    return claims


def key_of(report: VerifiedReport, claims: Claims | None) -> Sha256 | None:
    """The key that evidence is about, if that can be told from it, or from what it binds."""
    if claims is not None:
        return claims.pubkey_hash
    key = report.claims.get("key" if report.tee is Tee.EAR else "public_key")
    return Sha256(key) if isinstance(key, bytes) and len(key) == Sha256.length else None


def _launch_of(report: VerifiedReport) -> Sha384 | None:
    """The contract's digest that an attested certificate's evidence binds."""
    launch = report.claims.get("launch")
    return Sha384(launch) if isinstance(launch, bytes) else None


def _other_occasion(what: str, wanted: bytes, got: bytes) -> NotGenuineError:
    return NotGenuineError(
        f"evidence.{what}",
        "the evidence binds something else: it was made for another occasion",
        field=what,
        expected=wanted.hex(),
        got=got.hex() or "none",
        remedy="Have it made again, for this occasion.",
    )


def _appraise(
    policy: PolicyDocument | None,
    report: VerifiedReport,
    at: datetime.datetime,
    launch: Sha384 | None = None,
    *,
    every: bool = False,
) -> AppraisedReport | NotAcceptableError | None:
    """What the first policy that holds accepts, or every mismatch; None where nothing judges.

    With ``every``, all of the policies must hold.
    """
    if policy is None:
        return _own_judgement(report)
    accepted, refusals = [], []
    for each in policy.policies.values():
        try:
            accepted.append(appraise(each, report, launch=launch, at=at))
        except NotAcceptableError as error:
            refusals.append(error)
    if accepted and not (every and refusals):
        return accepted[0]
    mismatches = tuple(mismatch for error in refusals for mismatch in error.mismatches)
    return NotAcceptableError(
        "policy.mismatch",
        "not every policy of the document holds" if accepted else "no policy of the document holds",
        field=mismatches[0].field,
        mismatches=mismatches,
        remedy=mismatches[0].remedy,
    )


def _own_judgement(report: VerifiedReport) -> NotAcceptableError | None:
    """A result that doesn't affirm is no success, whoever reads it, and without a policy too."""
    status = report.claims.get("status")
    if report.tee is not Tee.EAR or status == Status.AFFIRMING:
        return None
    return NotAcceptableError(
        "ear.status",
        "the verifier doesn't affirm the evidence",
        field="ear_status",
        expected=Status.AFFIRMING,
        got=str(status),
        remedy="Ask the verifier why; its result says which fields didn't match.",
    )
