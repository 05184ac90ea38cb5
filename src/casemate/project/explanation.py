"""Explain a refusal: what didn't match, what it means, and what would have to change.

The appraisal is replayed: from the claims in an audit line or of verified evidence, against a
policy document. What is proposed is tried before it is shown: the changed policy really accepts.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

from casemate.encoding import JsonValue
from casemate.errors import Mismatch, NotAcceptableError, UsageError
from casemate.evidence import Tee
from casemate.policy import PolicyDocument, appraise
from casemate.policy.constraint import Constraint, holds
from casemate.policy.document import Alternative, Policy
from casemate.policy.kinds import Field
from casemate.policy.meanings import meaning, unwise
from casemate.policy.relax import accepting
from casemate.policy.source import render_constraint
from casemate.project.audit_lines import parse_refusal
from casemate.project.verification import Outcome, Verification
from casemate.protocol.binding import parse_claims
from casemate.types import Sha384
from casemate.verify import ClaimValue, VerifiedReport

_GPU = re.compile(r"gpus(?:\[(?P<number>\d{1,2})\])?\.(?P<field>[a-z0-9_]+)\Z", re.ASCII)
_BY_HAND = ("tee", "gpus", "condition")
"""What no change of a constraint makes fit."""
_STRUCTURE = (*_BY_HAND, "count")


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A mismatch, and what to make of it.

    Args:
        where: which alternative of which policy.
        field: the field.
        expected: what the policy demands.
        got: what the evidence says.
        meaning: what the field is about.
        remedy: what to do, other than to change the policy.
        change: the field's line in a policy that takes it; None where there's none.
        unwise: why that change would be unwise; None where it is a matter of knowing the value.
    """

    where: str
    field: str
    expected: str
    got: str
    meaning: str
    remedy: str
    change: str | None
    unwise: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """The smallest change after which the policy accepts; it was tried.

    Args:
        where: which alternative of which policy.
        toml: the lines that replace those of the same fields.
        unwise: why not to do it, a reason for each that there is.
    """

    where: str
    toml: str
    unwise: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why evidence was refused.

    Args:
        tee: its kind, if known.
        accepted: whether the given policy accepts it now.
        error: what it was refused for, apart from mismatches.
        mismatches: each.
        proposals: the smallest change, if a policy was given and one exists; of several policies
            that must hold, one for each that doesn't.
        note: what else is to be said.
    """

    tee: str | None
    accepted: bool
    error: Mapping[str, object] | None
    mismatches: tuple[Explained, ...]
    proposals: tuple[Proposal, ...]
    note: str | None

    def as_dict(self) -> dict[str, object]:
        """A JSON-ready object."""
        return {
            "tee": self.tee,
            "accepted": self.accepted,
            "error": self.error,
            "mismatches": [asdict(each) for each in self.mismatches],
            "proposals": [asdict(each) for each in self.proposals],
            "note": self.note,
        }


def explain_report(
    document: PolicyDocument,
    report: VerifiedReport,
    *,
    launch: Sha384 | None,
    at: datetime.datetime,
    demanded: Collection[str] | None = None,
) -> Explanation:
    """Replay an appraisal, and explain why it fails.

    Args:
        document: the policies.
        report: genuine claims.
        launch: the contract's digest, if the evidence binds one.
        at: the time.
        demanded: the policies that must all hold; if not given, any one of the document.
    """
    tee = report.tee.value
    claims: dict[str, ClaimValue] = dict(report.claims)
    if launch is not None:
        claims["launch"] = bytes(launch)
    judged = _Judged(claims, tuple(gpu.claims for gpu in report.gpus))
    mismatches: list[Mismatch] = []
    held: list[str] = []
    for policy in document.policies.values():
        if demanded is None or policy.name in demanded:
            try:
                appraise(policy, report, launch=launch, at=at)
            except NotAcceptableError as error:
                mismatches += error.mismatches
            else:
                held.append(policy.name)
    if not mismatches or (held and demanded is None):
        return Explanation(
            tee=tee, accepted=True, error=None, mismatches=(), proposals=(),
            note=f"It is accepted now, by: {', '.join(held) or 'no policy, for none is demanded'}.",
        )  # fmt: skip
    places = _places(document)
    return Explanation(
        tee=tee,
        accepted=False,
        error=None,
        mismatches=tuple(
            _explain(mismatch, tee, places.get(mismatch.where), judged) for mismatch in mismatches
        ),
        proposals=_proposals(mismatches, places, judged, report, launch, at, demanded),
        note=None,
    )


def explain_outcome(outcome: Outcome, verification: Verification) -> Explanation:
    """Explain what came of evidence in a file.

    Args:
        outcome: of the verification.
        verification: with a policy.
    """
    if outcome.report is not None and verification.policy is not None:
        bound = verification.expected.claims  # what it binds was checked
        return explain_report(
            verification.policy,
            outcome.report,
            launch=parse_claims(bound).launch if bound is not None else None,
            at=verification.at,
        )
    return Explanation(
        tee=outcome.tee,
        accepted=False,
        error=outcome.error.as_dict() if outcome.error is not None else None,
        mismatches=(),
        proposals=(),
        note="No change of a policy helps: what isn't shown to be genuine is never accepted.",
    )


def explain_line(line: Mapping[str, JsonValue], document: PolicyDocument | None) -> Explanation:
    """Explain a refusal from a line of a broker's audit trail.

    Args:
        line: as specs/key-broker.md says, "Audit trail".
        document: the policies to replay it against; without, what the line says is explained.

    Raises:
        MalformedError: ``explain.line`` where it isn't such a line.
        UsageError: ``explain.secret`` where the document is another than the broker's.
    """
    refusal = parse_refusal(line)
    if document is not None and refusal.report is not None:
        return explain_report(
            document,
            refusal.report,
            launch=refusal.launch,
            at=refusal.at,
            demanded=_demanded(refusal.secrets, document),
        )
    mismatches = tuple(
        _explain(item, refusal.tee or "", None, _Judged({})) for item in refusal.mismatches
    )
    return Explanation(
        tee=refusal.tee,
        accepted=False,
        error=None if mismatches else refusal.error,
        mismatches=mismatches,
        proposals=(),
        note="Give the policy (--policy) to see what would have to change."
        if mismatches
        else "No change of a policy helps: it was refused for another reason.",
    )


def _places(document: PolicyDocument) -> dict[str, Alternative]:
    return {
        f"{policy.name}[{index}]": alternative
        for policy in document.policies.values()
        for index, alternative in enumerate(policy.alternatives)
    }


@dataclass(frozen=True, slots=True)
class _Judged:
    """What is replayed: a CPU's claims, and those of each GPU beside it."""

    claims: Mapping[str, ClaimValue]
    gpus: tuple[Mapping[str, ClaimValue], ...] = ()

    def of(self, name: str) -> tuple[ClaimValue | None, ...]:
        """The claims that a mismatch is about; of a GPU's field those of every GPU."""
        if (match := _GPU.match(name)) is None:
            return (self.claims.get(name),)
        if match["field"] == "count":
            return (len(self.gpus),)
        return tuple(gpu.get(match["field"]) for gpu in self.gpus)


def _explain(
    mismatch: Mismatch, tee: str, alternative: Alternative | None, judged: _Judged
) -> Explained:
    name = mismatch.field
    constrained = _constrained(alternative, name)
    change = _change(constrained, judged.of(name))
    number = _GPU.match(name)
    claims = judged.of(name)
    if alternative is None:  # an audit line alone: its texts are all there is
        claim = _typed_text(mismatch.got)
    else:
        claim = claims[int(number["number"] or 0) if number else 0]
    bare = number["field"] if number else name
    return Explained(
        where=mismatch.where,
        field=name,
        expected=mismatch.expected,
        got=mismatch.got,
        meaning=meaning(Tee.NVIDIA if number else tee, bare),
        remedy=mismatch.remedy,
        change=_line(_key(name), change),
        unwise=None
        if bare in _STRUCTURE
        else unwise(bare, constrained[1] if constrained else None, claim),
    )


def _constrained(alternative: Alternative | None, name: str) -> tuple[Field, Constraint] | None:
    if alternative is None:
        return None
    number = _GPU.match(name)
    wanted = number["field"] if number else name
    fields = alternative.gpu_fields() if number else alternative.fields()
    return next(((field, each) for field, each in fields if field.name == wanted), None)


def _change(
    constrained: tuple[Field, Constraint] | None, claims: tuple[ClaimValue | None, ...]
) -> Constraint | None:
    """A constraint that all of the claims meet."""
    if constrained is None:
        return None
    field, constraint = constrained
    for claim in claims:
        if not holds(field, constraint, claim):
            if (changed := accepting(field, constraint, claim)) is None:
                return None
            constraint = changed
    return constraint


def _key(name: str) -> str:
    """The key in the alternative: what holds for one GPU holds for all."""
    number = _GPU.match(name)
    return f"gpus.{number['field']}" if number else name


def _line(name: str, constraint: Constraint | None) -> str | None:
    return f"{name} = {{ {render_constraint(constraint)} }}" if constraint is not None else None


def _proposals(
    mismatches: list[Mismatch],
    places: Mapping[str, Alternative],
    judged: _Judged,
    report: VerifiedReport,
    launch: Sha384 | None,
    at: datetime.datetime,
    demanded: Collection[str] | None,
) -> tuple[Proposal, ...]:
    """One change that does; where several policies must hold, one for each, or none at all."""
    groups: dict[str, list[Mismatch]] = {}
    for mismatch in mismatches:
        policy = "" if demanded is None else mismatch.where.rpartition("[")[0]
        groups.setdefault(policy, []).append(mismatch)
    found = [_smallest(places, group, judged, report, launch, at) for group in groups.values()]
    return tuple(each for each in found if each is not None) if None not in found else ()


def _smallest(
    places: Mapping[str, Alternative],
    mismatches: list[Mismatch],
    judged: _Judged,
    report: VerifiedReport,
    launch: Sha384 | None,
    at: datetime.datetime,
) -> Proposal | None:
    """Of the alternatives that can be changed to accept, the one with the fewest mismatches."""
    by_place: dict[str, list[Mismatch]] = {}
    for mismatch in mismatches:
        by_place.setdefault(mismatch.where, []).append(mismatch)
    for where, found in sorted(by_place.items(), key=lambda item: len(item[1])):
        alternative = places.get(where)
        if alternative is None or any(each.field in _BY_HAND for each in found):
            continue
        later = at + datetime.timedelta(days=1)
        new: dict[str, Constraint] = {}
        for each in found:
            change = _change(_constrained(alternative, each.field), judged.of(each.field))
            if change is not None:
                new[_key(each.field)] = change
            elif each.field != "expires":
                break
        else:
            ends = any(each.field == "expires" for each in found)
            tried = _changed(alternative, new, later if ends else alternative.expires)
            if _accepts(tried, report, launch, at):
                lines = [f"expires = {later.isoformat()}"] if ends else []
                lines += [str(_line(name, constraint)) for name, constraint in new.items()]
                return Proposal(
                    where=where,
                    toml="\n".join(lines),
                    unwise=_reasons(found, alternative, judged, report.tee),
                )
    return None


def _changed(
    alternative: Alternative, new: Mapping[str, Constraint], expires: datetime.datetime | None
) -> Alternative:
    gpus = {name[5:]: each for name, each in new.items() if name.startswith("gpus.")}
    own = {name: each for name, each in new.items() if not name.startswith("gpus.")}
    return replace(
        alternative,
        constraints=MappingProxyType({**alternative.constraints, **own}),
        gpus=MappingProxyType({**alternative.gpus, **gpus}) if alternative.gpus else None,
        expires=expires,
    )


def _reasons(
    found: list[Mismatch], alternative: Alternative, judged: _Judged, tee: Tee
) -> tuple[str, ...]:
    explained = (_explain(each, tee.value, alternative, judged) for each in found)
    reasons = [f"{each.field}: {each.unwise}" for each in explained if each.unwise is not None]
    if tee is Tee.SIMULATED:
        reasons.append("tee: simulated evidence protects nothing, whatever it says.")
    return tuple(reasons)


def _accepts(
    alternative: Alternative,
    report: VerifiedReport,
    launch: Sha384 | None,
    at: datetime.datetime,
) -> bool:
    try:
        appraise(Policy(name="tried", alternatives=(alternative,)), report, launch=launch, at=at)
    except NotAcceptableError:
        return False
    return True


def _demanded(secrets: Collection[str] | None, document: PolicyDocument) -> Collection[str] | None:
    """What a call's secrets demand; None of a channel, for which any policy does."""
    if secrets is None:
        return None
    unknown = [name for name in secrets if name not in document.secrets]
    if unknown:
        raise UsageError(
            "explain.secret",
            "the policy document knows nothing of a secret that was asked for",
            field="--policy",
            expected=f"a document with the secret {unknown[0]}",
            got=", ".join(document.secrets)[:200] or "no secret",
            remedy="The launcher's contract names a secret that this broker hasn't.",
        )
    return {policy for name in secrets for policy in document.secrets[name]}


def _typed_text(text: str) -> ClaimValue | None:
    """The few values whose reasons depend on their type."""
    return {"true": True, "false": False, "absent": None}.get(text, text)
