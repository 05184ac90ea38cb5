"""Appraisal: hold a verified report against a policy, and report every mismatch at once."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from casemate.errors import InternalError, Mismatch, NotAcceptableError
from casemate.policy.constraint import Constraint, describe, holds, show
from casemate.policy.document import Alternative, Policy
from casemate.policy.kinds import Field
from casemate.types import Sha384
from casemate.verify import ClaimValue, VerifiedReport

_APPRAISED_HERE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class AppraisedReport:
    """A genuine report that a policy accepts. Only `appraise` makes one.

    Args:
        report: the genuine report.
        policy: the name of the policy that holds.
        alternative: which of its alternatives, from 0.
        launch: SHA-384 of the launch contract that the peer's evidence binds, if any.
    """

    report: VerifiedReport
    policy: str
    alternative: int
    launch: Sha384 | None
    _proof: object = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._proof is not _APPRAISED_HERE:
            raise InternalError(
                "policy.forged", "an AppraisedReport is only made by casemate.policy.appraise"
            )


def appraise(
    policy: Policy,
    report: VerifiedReport,
    *,
    launch: Sha384 | None,
    at: datetime.datetime | None = None,
) -> AppraisedReport:
    """Hold a report against a policy.

    Args:
        policy: any one of its alternatives may hold.
        report: genuine claims.
        launch: SHA-384 of the launch contract, from claims that are bound to the evidence.
        at: the time; without it, no alternative that expires holds.

    Raises:
        NotAcceptableError: ``policy.mismatch`` with every mismatch of every alternative.

    Does not check: freshness and binding (`casemate.protocol.verify_peer` did).
    """
    claims: dict[str, ClaimValue] = dict(report.claims)
    if launch is not None:
        claims["launch"] = bytes(launch)
    mismatches: list[Mismatch] = []
    for index, alternative in enumerate(policy.alternatives):
        found = _mismatches(f"{policy.name}[{index}]", alternative, report, claims, at)
        if not found:
            return AppraisedReport(
                report=report,
                policy=policy.name,
                alternative=index,
                launch=launch,
                _proof=_APPRAISED_HERE,
            )
        mismatches += found
    raise NotAcceptableError(
        "policy.mismatch",
        f"no alternative of the policy {policy.name} holds",
        field=mismatches[0].field,
        mismatches=tuple(mismatches),
        remedy=mismatches[0].remedy,
    )


def _mismatches(
    where: str,
    alternative: Alternative,
    report: VerifiedReport,
    claims: dict[str, ClaimValue],
    at: datetime.datetime | None,
) -> list[Mismatch]:
    if alternative.tee is not report.tee:
        return [
            Mismatch(
                where=where,
                field="tee",
                expected=alternative.tee,
                got=report.tee,
                remedy="Add an alternative for this TEE, if it is to be trusted.",
            )
        ]
    found = [
        *_expired(where, alternative, at),
        *_unmet(where, alternative.fields(), claims),
        *_gpus(where, alternative, report.gpus),
    ]
    return found or _condition(where, alternative, report, claims)


def _unmet(
    where: str,
    fields: Iterable[tuple[Field, Constraint]],
    claims: Mapping[str, ClaimValue],
    prefix: str = "",
) -> Iterator[Mismatch]:
    for each, constraint in fields:
        if not holds(each, constraint, claims.get(each.name)):
            yield Mismatch(
                where=where,
                field=prefix + each.name,
                expected=describe(each, constraint),
                got=show(claims.get(each.name)),
                remedy=each.remedy,
            )


def _gpus(
    where: str, alternative: Alternative, gpus: Sequence[VerifiedReport]
) -> Iterator[Mismatch]:
    """The number of GPUs, and every one of them. An alternative that is silent allows none."""
    if alternative.gpus is None:
        if gpus:
            yield Mismatch(
                where=where,
                field="gpus",
                expected="none",
                got=str(len(gpus)),
                remedy="Say in the alternative's gpus which ones you accept.",
            )
        return
    (count, wanted), *fields = alternative.gpu_fields()
    yield from _unmet(where, [(count, wanted)], {count.name: len(gpus)}, "gpus.")
    for number, gpu in enumerate(gpus):
        yield from _unmet(where, fields, gpu.claims, f"gpus[{number}].")


def _condition(
    where: str,
    alternative: Alternative,
    report: VerifiedReport,
    claims: Mapping[str, ClaimValue],
) -> list[Mismatch]:
    """Only after all else held: a condition can't make up for anything."""
    if (condition := alternative.condition) is None:
        return []
    outcome = condition.outcome(report.tee, claims, [gpu.claims for gpu in report.gpus])
    if outcome == "true":
        return []
    return [
        Mismatch(
            where=where,
            field="condition",
            expected=condition.text,
            got=outcome,
            remedy="Look at the claims that the condition speaks of, or change it.",
        )
    ]


def _expired(where: str, alternative: Alternative, at: datetime.datetime | None) -> list[Mismatch]:
    if alternative.expires is None or (at is not None and at < alternative.expires):
        return []
    return [
        Mismatch(
            where=where,
            field="expires",
            expected=f"a time before {alternative.expires.isoformat()}",
            got=at.isoformat() if at is not None else "no time",
            remedy="Look at this alternative again, and give it a later end if it is still right.",
        )
    ]
