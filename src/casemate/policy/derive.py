"""A strict policy out of one piece of genuine evidence.

1. What the evidence says is demanded: versions at least as high, all else exactly.
2. What other genuine evidence of the same code may say otherwise, of another machine or another
   boot, is unchecked for that reason; a caller may have machines pinned all the same.
3. What is a weakness isn't written down as a demand: TCB status, advisories, debugging, age and
   revocation are held to what they should be, so that a policy may refuse the very evidence that
   it was made from. `appraise` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from casemate.errors import NotAcceptableError, UsageError
from casemate.evidence import Tee
from casemate.policy.compare import implies
from casemate.policy.constraint import (
    Absent,
    AnyOf,
    AtLeast,
    AtLeastEach,
    AtMost,
    Constraint,
    Only,
    Unchecked,
    default_constraint,
)
from casemate.policy.document import Alternative, Policy, PolicyDocument
from casemate.policy.fields import FIELDS, GPU_FIELDS
from casemate.policy.kinds import Field, Kind, Varies
from casemate.types import Sha384
from casemate.verify import ClaimValue, VerifiedReport

_ORDERED = (Kind.VERSION, Kind.DATE, Kind.SVNS)
_KEYS = (Tee.SIMULATED, Tee.IDENTITY_KEY)


def policy_from_report(
    report: VerifiedReport,
    *,
    launch: Sha384 | None = None,
    pin_machine: bool = False,
    name: str = "launcher",
    secrets: Sequence[str] = (),
    registers: Mapping[str, Sequence[bytes]] = MappingProxyType({}),
) -> PolicyDocument:
    """The strictest policy for what a report is of.

    Args:
        report: genuine.
        launch: SHA-384 of the launch contract that is to be pinned.
        pin_machine: whether to accept this one machine alone.
        name: of the policy.
        secrets: names of the secrets that it is to release.
        registers: values of registers that will be others than in the report, by their names.

    Raises:
        NotAcceptableError: ``policy.debuggable`` where what it is of can be looked into.
        UsageError: ``policy.underivable`` where evidence doesn't hold what a policy must name.

    Does not check: whether the policy accepts the report.
    """
    if report.tee in _KEYS:
        raise _underivable(report.tee, "root" if report.tee is Tee.SIMULATED else "key")
    if report.claims.get("debug") is True:
        raise NotAcceptableError(
            "policy.debuggable",
            "no policy is made for what can be looked into",
            field="debug",
            expected="false",
            got="true",
            remedy="Take evidence of the build that is to run, without debugging.",
        )
    constraints: dict[str, Constraint] = {}
    for field in FIELDS[report.tee]:
        claim = (
            bytes(launch) if launch and field.name == "launch" else report.claims.get(field.name)
        )
        constraints[field.name] = (
            AnyOf(tuple(registers[field.name]))
            if field.name in registers
            else _constraint(field, claim, report.claims, pin_machine=pin_machine)
        )
        if field.must_check and isinstance(constraints[field.name], Unchecked):
            raise _underivable(report.tee, field.name)
    alternative = Alternative(
        tee=report.tee,
        constraints=MappingProxyType(constraints),
        gpus=_gpus(report.gpus, pin_machine=pin_machine) if report.gpus else None,
    )
    document = PolicyDocument(
        policies={name: Policy(name=name, alternatives=(alternative,))},
        secrets=dict.fromkeys(secrets, (name,)),
    )
    return PolicyDocument.parse(document.render())


def _gpus(gpus: Sequence[VerifiedReport], *, pin_machine: bool) -> Mapping[str, Constraint]:
    """As many GPUs, each of them like one of those that are there."""
    count, *fields = GPU_FIELDS
    wanted: dict[str, Constraint] = {count.name: AnyOf((len(gpus),))}
    for field in fields:
        each = [
            _constraint(field, gpu.claims.get(field.name), gpu.claims, pin_machine=pin_machine)
            for gpu in gpus
        ]
        exact = [value for one in each if isinstance(one, AnyOf) for value in one.values]
        if exact:
            wanted[field.name] = AnyOf(tuple(dict.fromkeys(exact)))
        else:  # of minima, the one that all others are at least
            wanted[field.name] = next(
                one for one in each if all(implies(field, other, one) for other in each)
            )
    return MappingProxyType(wanted)


def _constraint(
    field: Field,
    claim: ClaimValue | None,
    claims: Mapping[str, ClaimValue],
    *,
    pin_machine: bool,
) -> Constraint:
    if (default := default_constraint(field)) is not None:
        return default
    if field.strict is not None:
        return AnyOf((field.strict,))
    if field.limit is not None:
        return AtMost(field.limit)
    if field.varies is not None and not (pin_machine and field.varies is Varies.MACHINE):
        return Unchecked(field.varies)
    if field.name == "advisories" and isinstance(claim, tuple):
        return Only(claim if claims.get("tcb_status") == "UpToDate" else ())
    match field.kind, claim:
        case _, None if field.name == "launch":
            return Unchecked("no launch contract was given when this policy was made")
        case _, None:
            if field.given:
                return Unchecked("known only where the verifier is given more than the evidence")
            reason = "the evidence that this policy was made from says nothing about it"
            return Absent() if field.optional else Unchecked(reason)
        case Kind.LEVELS, Mapping():
            return AtLeastEach(MappingProxyType(dict(claim)))
        case kind, str() | bytes() if kind in _ORDERED:
            return AtLeast(claim)
        case Kind.UINT, int() if field.rises:
            return AtLeast(claim)
    assert claim is not None
    return AnyOf((claim,))


def _underivable(tee: Tee, field: str) -> UsageError:
    return UsageError(
        "policy.underivable",
        f"a policy for {tee} evidence can't be made from evidence alone",
        field=field,
        expected=f"evidence that says what {field} must be",
        got="none",
        remedy="Write the policy by hand, or make it from a launch contract (--tee simulated).",
    )
