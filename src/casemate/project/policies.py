"""Release policies, derived from what is to be released to."""

from __future__ import annotations

from casemate.evidence import Tee
from casemate.policy import PolicyDocument
from casemate.policy.constraint import AnyOf, AtLeast, Unchecked
from casemate.policy.document import Alternative, Policy
from casemate.protocol.contract import LaunchContract
from casemate.tee.simulated import SVN, DevelopmentRoot
from casemate.types import Sha384


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
