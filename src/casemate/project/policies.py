"""Release policies, derived from what is to be released to."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from casemate.endorsements.collection import sort_endorsements
from casemate.errors import Mismatch, NotAcceptableError
from casemate.evidence import Tee
from casemate.evidence.detect import detect, unwrap
from casemate.policy import PolicyDocument, appraise
from casemate.policy.constraint import AnyOf, AtLeast, Unchecked
from casemate.policy.derive import policy_from_report
from casemate.policy.document import Alternative, Policy
from casemate.project.files import read_file
from casemate.protocol.contract import LaunchContract
from casemate.protocol.registers import registers_after_launch
from casemate.tee.simulated import SVN, DevelopmentRoot
from casemate.types import Sha384
from casemate.verify.anything import verify_anything
from casemate.verify.checks import CheckList


def policy_for_launcher(
    contract: LaunchContract, *, root: DevelopmentRoot, measurement: Sha384
) -> PolicyDocument:
    """The strictest policy under which one contract can be launched in the simulated TEE.

    Args:
        contract: what may be launched; each of its secrets gets the policy.
        root: the development root whose evidence counts.
        measurement: of the launcher's code.
    """
    alternative = Alternative(
        tee=Tee.SIMULATED,
        constraints={
            "root": AnyOf((root.spki,)),
            "measurement": AnyOf((bytes(measurement),)),
            "debug": AnyOf((False,)),
            "svn": AtLeast(SVN),
            "platform_id": Unchecked("whoever has the development root can claim any platform"),
            "launch": AnyOf((bytes(contract.digest()),)),
        },
    )
    return PolicyDocument(
        policies={"launcher": Policy(name="launcher", alternatives=(alternative,))},
        secrets=dict.fromkeys(contract.secret_names, ("launcher",)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedPolicy:
    """A policy that was made from evidence.

    Args:
        document: the policy document.
        tee: what the evidence is of.
        mismatches: in what the evidence itself isn't good enough for it.
    """

    document: PolicyDocument
    tee: Tee
    mismatches: tuple[Mismatch, ...]


def policy_for_evidence(
    evidence: Path,
    *,
    endorsements: Sequence[Path],
    at: datetime.datetime,
    contract: LaunchContract | None,
    pin_machine: bool,
    secrets: Sequence[str],
) -> DerivedPolicy:
    """The strictest policy for what a piece of evidence is of.

    Args:
        evidence: a file.
        endorsements: files, in any order.
        at: the time at which all must be valid.
        contract: the launch contract to pin; its secrets get the policy.
        pin_machine: whether to accept this one machine alone.
        secrets: further secrets that get it.

    Raises:
        MalformedError, NotGenuineError, UnavailableError: the evidence doesn't hold.
        NotAcceptableError, UsageError: see `policy_from_report`.
    """
    data = unwrap(read_file(evidence, field="--from"))
    files = [(str(path), read_file(path, field="--endorsements")) for path in endorsements]
    report = verify_anything(
        detect(data), data, endorsements=sort_endorsements(files), at=at, checks=CheckList()
    )
    launch = contract.digest() if contract is not None else None
    named = (*(contract.secret_names if contract is not None else ()), *secrets)
    # The launcher will measure the contract, and what it measured that into is pinned too.
    registers = registers_after_launch(report.tee, report.claims, launch) if launch else {}
    document = policy_from_report(
        report, launch=launch, pin_machine=pin_machine, secrets=tuple(dict.fromkeys(named)),
        registers=registers,
    )  # fmt: skip
    measured = {name: values[-1] for name, values in registers.items()}
    report = replace(report, claims={**report.claims, **measured})
    mismatches: tuple[Mismatch, ...] = ()
    (policy,) = document.policies.values()
    try:
        appraise(policy, report, launch=launch, at=at)
    except NotAcceptableError as error:
        mismatches = error.mismatches
    return DerivedPolicy(document=document, tee=report.tee, mismatches=mismatches)
