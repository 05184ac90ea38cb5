"""What is wrong, weak or about to end in a policy document that can be read.

What can't be built is refused by the parser. Beyond that a document may contradict itself, so that
nothing is ever accepted, or accept more than its author may think. Findings have a weight:

 - ``error``: an alternative never holds, or accepts what nobody should;
 - ``warning``: it accepts what is known to be weak, or ends soon;
 - ``note``: worth knowing.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from casemate.evidence import Tee
from casemate.evidence.composite import MAX_GPUS
from casemate.policy.compare import covers, exclude
from casemate.policy.constraint import (
    Absent,
    AnyOf,
    AtLeast,
    AtMost,
    Bits,
    Constraint,
    Only,
    Unchecked,
    as_int,
    holds,
    show,
)
from casemate.policy.document import Alternative, PolicyDocument
from casemate.policy.kinds import LAUNCH, Field, Kind, Varies
from casemate.policy.known import PUBLIC_SIGNERS
from casemate.verify import ClaimValue

_SOON = datetime.timedelta(days=30)
_MANY = 0.5  # of all fields unchecked
_FINE = {"UpToDate"}
_NEVER = {"Revoked"}


class Weight(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something to look at.

    Args:
        weight: how much it matters.
        where: ``policies.NAME[INDEX]``, or ``policies.NAME``.
        field: which field, or ``alternative`` for all of it.
        what: what it is, a sentence.
        remedy: what to do, a sentence.
    """

    weight: Weight
    where: str
    field: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class _Bit:
    """A field that is a bit of another one: flags are little-endian in reports."""

    flags: str
    number: int


_BITS: dict[str, tuple[_Bit, ...]] = {
    "debug": (_Bit("attributes", 1), _Bit("td_attributes", 0), _Bit("guest_policy", 19)),
    "sept_ve_disable": (_Bit("td_attributes", 28),),
    "migration_agent": (_Bit("guest_policy", 18),),
    "single_socket": (_Bit("guest_policy", 20),),
    "smt_allowed": (_Bit("guest_policy", 16),),
}
# Open what they are switched on (or off) for, without being a debugging interface.
_SETTINGS: dict[str, tuple[ClaimValue, str]] = {
    "migration_agent": (True, "A migration agent may move the guest to another machine."),
    "secure_boot": (False, "Whatever the machine boots is accepted."),
    "safe": (False, "Counters and clock of the TPM may have gone back."),
}


def review(document: PolicyDocument, *, at: datetime.datetime) -> tuple[Finding, ...]:
    """Everything to look at in a document.

    Args:
        document: a policy document.
        at: the time.
    """
    found: list[Finding] = []
    for name, policy in document.policies.items():
        where = f"policies.{name}"
        for index, alternative in enumerate(policy.alternatives):
            here = f"{where}[{index}]"
            for check in (_ends, _contradicts, _is_weak, _counts_gpus, _is_open):
                found += check(here, alternative, at)
            found += _needless(here, index, policy.alternatives)
        if document.secrets and not any(name in names for names in document.secrets.values()):
            found.append(
                _note(where, "policy", "No secret names this policy.", "Remove it, or name it.")
            )
    return (*found, *_secrets(document))


def _needless(where: str, index: int, alternatives: Sequence[Alternative]) -> Iterator[Finding]:
    narrow = alternatives[index]
    for other, wider in enumerate(alternatives):
        if other == index or not covers(wider, narrow):
            continue
        if covers(narrow, wider) and other > index:
            continue  # of two that are equal, the second one is told
        yield _warning(
            where, "alternative",
            f"What it accepts, alternative {other} accepts too: it is needless.",
            "Remove it, or the wider one if this is what is meant.",
        )  # fmt: skip


def _secrets(document: PolicyDocument) -> Iterator[Finding]:
    """A secret whose policies no evidence meets together is never released."""
    for secret, names in document.secrets.items():
        for one, other in itertools.combinations(names, 2):
            pairs = itertools.product(
                document.policies[one].alternatives, document.policies[other].alternatives
            )
            if all(exclude(*pair) for pair in pairs):
                yield _error(
                    f"secrets.{secret}", "policies", f"No evidence meets both {one} and {other}: "
                    "the secret is never released.",
                    "Make an alternative of each accept the same evidence, or name one policy.",
                )  # fmt: skip


def _ends(where: str, alternative: Alternative, at: datetime.datetime) -> Iterator[Finding]:
    if (end := alternative.expires) is None:
        return
    advice = "Look at it again, and give it a later end if it is still right."
    if end <= at:
        yield _error(where, "expires", f"It ended at {end.isoformat()}: it never holds.", advice)
    elif end <= at + _SOON:
        yield _warning(where, "expires", f"It ends soon, at {end.isoformat()}.", advice)


def _contradicts(where: str, alternative: Alternative, at: datetime.datetime) -> Iterator[Finding]:
    """Constraints that no genuine evidence meets together."""
    fields = {field.name: (field, constraint) for field, constraint in alternative.fields()}
    for name, bits in _BITS.items():
        for bit in bits:
            if name in fields and bit.flags in fields:
                yield from _bit_agrees(where, name, fields[name][1], bit, fields[bit.flags][1])
    if "sept_ve_disable" in fields and fields["sept_ve_disable"][1] == AnyOf((False,)):
        yield _error(
            where, "sept_ve_disable", "Such quotes are never genuine here: the verifier refuses "
            "trust domains whose page-table faults can be injected.", "Demand true.",
        )  # fmt: skip
    if "tcb_date" in fields and _lies_ahead(fields["tcb_date"][1], at):
        yield _error(
            where, "tcb_date", "The day hasn't come: no platform has such a level.",
            "Name a day that has passed.",
        )  # fmt: skip
    for field, constraint in fields.values():
        if field.kind is Kind.DIGEST and field.must_check and _names_zeros(constraint):
            yield _error(
                where, field.name, "Zeros are what is there where nothing was measured.",
                "Name the measurement of the code that is to run.",
            )  # fmt: skip
    yield from _registers(where, {name: constraint for name, (_, constraint) in fields.items()})


def _bit_agrees(
    where: str, name: str, wanted: Constraint, bit: _Bit, constraint: Constraint
) -> Iterator[Finding]:
    if not isinstance(wanted, AnyOf):
        return
    possible = [value for value in wanted.values if _may_be(value is True, bit, constraint)]
    if not possible:
        yield _error(
            where, bit.flags, f"It contradicts {name}, which is bit {bit.number} of it: nothing "
            "meets both.", f"Make {bit.flags} and {name} say the same.",
        )  # fmt: skip


def _may_be(value: bool, bit: _Bit, constraint: Constraint) -> bool:
    """Whether some flags that meet the constraint have the bit at ``value``."""
    match constraint:
        case Bits(ones, zeros):
            forbidden = zeros if value else ones
            return not _mask(forbidden) >> bit.number & 1
        case AnyOf(values):
            return any(
                bool(_mask(flags) >> bit.number & 1) is value
                for flags in values
                if isinstance(flags, int | bytes)
            )
    return True


def _mask(flags: int | bytes) -> int:
    return int.from_bytes(flags, "little") if isinstance(flags, bytes) else as_int(flags)


def _registers(where: str, constraints: dict[str, Constraint]) -> Iterator[Finding]:
    """A register that the selection leaves out can't be demanded."""
    selection = constraints.get("pcr_selection")
    if not isinstance(selection, AnyOf):
        return
    chosen = [set(str(value).split(",")) for value in selection.values]
    for name, constraint in constraints.items():
        number = name.removeprefix("pcr")
        if not number.isdigit() or not isinstance(constraint, AnyOf):
            continue
        if not any(number in each for each in chosen):
            yield _error(
                where, name, "The selection of registers leaves this one out, so that it is never "
                "there.", "Add it to pcr_selection, or leave it unchecked for that reason.",
            )  # fmt: skip


def _is_weak(where: str, alternative: Alternative, at: datetime.datetime) -> Iterator[Finding]:
    """What is accepted although it is known to be weak."""
    del at
    if alternative.tee is Tee.SIMULATED:
        yield _warning(
            where, "tee", "Simulated evidence protects nothing: the root's key lies on the machine "
            "that it vouches for.", "Use it for development alone.",
        )  # fmt: skip
    launched = alternative.tee not in {Tee.IDENTITY_KEY, Tee.NVIDIA}
    yield from _weak_fields(
        where, (each for each in alternative.fields() if launched or each[0] is not LAUNCH)
    )
    for finding in _weak_fields(where, alternative.gpu_fields()):
        yield replace(finding, field=f"gpus.{finding.field}")


def _counts_gpus(where: str, alternative: Alternative, at: datetime.datetime) -> Iterator[Finding]:
    del at
    if alternative.gpus is None:
        return
    field, constraint = next(alternative.gpu_fields())
    if not any(holds(field, constraint, number) for number in range(1, MAX_GPUS + 1)):
        yield _error(
            where, "gpus.count", f"Evidence has 1 to {MAX_GPUS} GPUs, or none and no such rule.",
            "Name a number of GPUs, or leave gpus out.",
        )  # fmt: skip


def _weak_fields(where: str, fields: Iterable[tuple[Field, Constraint]]) -> Iterator[Finding]:
    for field, constraint in fields:
        if field.name == "debug" and holds(field, constraint, True):
            yield _error(
                where, "debug", "What can be looked into is accepted: its secrets are the host's.",
                "Demand false.",
            )  # fmt: skip
        if field.name in _SETTINGS and not isinstance(constraint, Unchecked):
            value, what = _SETTINGS[field.name]
            if holds(field, constraint, value):
                yield _warning(where, field.name, what, "Demand the other value.")
        if field.name in _JUDGES:
            yield from _JUDGES[field.name](where, field, constraint)


def _tcb_status(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    if isinstance(constraint, Absent):
        return
    if not isinstance(constraint, AnyOf):
        yield _error(
            where, field.name, "Platforms of any TCB status are accepted, revoked ones too.",
            "Name the statuses that you accept; UpToDate is the default.",
        )  # fmt: skip
        return
    for value in constraint.values:
        if value in _NEVER:
            yield _error(where, field.name, f"{show(value)} platforms are accepted.", "Remove it.")
        elif value not in _FINE:
            yield _warning(
                where, field.name, f"{show(value)} platforms are accepted: weaknesses are known.",
                "Name the advisories that you accept, and a date in expires.",
            )  # fmt: skip


def _grace(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    if constraint == AnyOf((0,)):
        return
    days = f"up to {constraint.maximum} days" if isinstance(constraint, AtMost) else "any time"
    yield _warning(
        where, field.name, f"Platforms that have been out of date for {days} are accepted.",
        "Keep it as short as an update takes.",
    )  # fmt: skip


def _advisories(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    match constraint:
        case Only(()):
            return
        case Only(values):
            yield _warning(
                where, field.name, f"Known weaknesses are accepted: {', '.join(values)}.",
                "Read each advisory; give the alternative an end in expires.",
            )  # fmt: skip
        case _:
            yield _warning(
                where, field.name, "Advisories are accepted that nobody knows yet.",
                "Name those that you accept: only = [].",
            )  # fmt: skip


def _signers(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    for value in constraint.values if isinstance(constraint, AnyOf) else ():
        if value in PUBLIC_SIGNERS:
            yield _warning(
                where, field.name, f"It is {PUBLIC_SIGNERS[value]}: anybody can sign with it.",
                "Sign with a key of your own.",
            )  # fmt: skip


def _revocation(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    if constraint != AnyOf(("checked",)):
        yield _warning(
            where, field.name, "Evidence is accepted whether or not its keys were revoked.",
            "Demand checked, and give the verifier the vendor's lists.",
        )  # fmt: skip


def _launch(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    if not isinstance(constraint, AnyOf):
        yield _warning(
            where, field.name, "Any launch contract is accepted, so the host chooses what runs in "
            "it and with which arguments.", "Name the contract's digest (casemate contract show).",
        )  # fmt: skip


def _measured(where: str, field: Field, constraint: Constraint) -> Iterator[Finding]:
    if isinstance(constraint, Unchecked) and field.instead is not None:
        yield _warning(
            where, field.name, f"Whatever the holder of {field.instead} signs is accepted.",
            f"Name {field.name}, or isv_prod_id and a lowest isv_svn beside {field.instead}.",
        )  # fmt: skip


_JUDGES = {
    "tcb_status": _tcb_status,
    "tcb_out_of_date_days": _grace,
    "advisories": _advisories,
    "mr_signer": _signers,
    "mr_enclave": _measured,
    "revocation": _revocation,
    "launch": _launch,
}


def _is_open(where: str, alternative: Alternative, at: datetime.datetime) -> Iterator[Finding]:
    """How much isn't looked at."""
    del at
    if alternative.tee in {Tee.SIMULATED, Tee.IDENTITY_KEY}:
        return
    fields = [each for each in alternative.fields() if each[0].name != "launch"]
    loose = [(field, rule) for field, rule in fields if isinstance(rule, Unchecked)]
    surprising = [field.name for field, _ in loose if field.varies is None]
    if len(surprising) > _MANY * len(fields):
        yield _warning(
            where, "alternative", f"{len(loose)} of {len(fields)} fields aren't looked at.",
            "Make a strict policy from evidence, and loosen what must be: casemate policy new "
            "--from.",
        )  # fmt: skip
    machines = [field for field, _ in fields if field.varies is Varies.MACHINE]
    if machines and all(
        isinstance(alternative.constraints[field.name], Unchecked) for field in machines
    ):
        yield _note(
            where, "alternative", "Any machine of this kind is accepted; whoever can open one up "
            "can forge its evidence.", "Name the machines that you know: "
            + _listed(field.name for field in machines) + ".",
        )  # fmt: skip


def _lies_ahead(constraint: Constraint, at: datetime.datetime) -> bool:
    wanted: Iterable[ClaimValue] = ()
    match constraint:
        case AtLeast(minimum):
            wanted = (minimum,)
        case AnyOf(values):
            wanted = values
    return bool(list(wanted)) and all(show(each) > at.date().isoformat() for each in wanted)


def _names_zeros(constraint: Constraint) -> bool:
    values = constraint.values if isinstance(constraint, AnyOf) else ()
    return any(isinstance(value, bytes) and not any(value) for value in values)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _error(where: str, field: str, what: str, remedy: str) -> Finding:
    return Finding(weight=Weight.ERROR, where=where, field=field, what=what, remedy=remedy)


def _warning(where: str, field: str, what: str, remedy: str) -> Finding:
    return Finding(weight=Weight.WARNING, where=where, field=field, what=what, remedy=remedy)


def _note(where: str, field: str, what: str, remedy: str) -> Finding:
    return Finding(weight=Weight.NOTE, where=where, field=field, what=what, remedy=remedy)
