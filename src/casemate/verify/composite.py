"""Verify composite evidence: a CPU's TEE and GPUs, all of them, for one occasion.

 1. The envelope parses (`casemate.evidence.composite`).
 2. Members bring certificates and manifests alone.
 3. Each member is genuine by its own verifier's rules.
 4. Each GPU's report binds what the CPU's evidence binds.
 5. No GPU is counted twice.

Source: specs/composite-evidence.md, "Verifying".
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import replace

from casemate.endorsements.collection import Endorsements, require_lasting, sort_endorsements
from casemate.errors import NotGenuineError
from casemate.evidence import Tee
from casemate.evidence.composite import parse_composite_evidence
from casemate.verify.checks import CheckList
from casemate.verify.report import VerifiedReport


def verify_composite(
    data: bytes,
    *,
    endorsements: Endorsements,
    verify_member: Callable[[Tee, bytes, Endorsements], VerifiedReport],
    checks: CheckList | None = None,
) -> VerifiedReport:
    """Verify a CPU's evidence and its GPUs'.

    Args:
        data: the envelope.
        endorsements: what the verifier knows, and what came beside the envelope.
        verify_member: verifies one member with the endorsements that it is given.
        checks: collects the checks.

    Returns:
        The CPU's report, with those of its GPUs.

    Raises:
        MalformedError: ``composite.malformed``, ``evidence.endorsements``.
        NotGenuineError: ``composite.*``, or a member's.
        UnavailableError: a member's.

    Does not check: what they bind, nor how many GPUs there should be.
    """
    checks = CheckList() if checks is None else checks
    with checks.check("composite.envelope", "the envelope holds a CPU's evidence and GPUs'"):  # 1
        members = parse_composite_evidence(data)
    reports = []
    for index, member in enumerate(members):
        sent = sort_endorsements(
            (f"members[{index}].endorsements[{number}]", item)
            for number, item in enumerate(member.endorsements)
        )
        require_lasting(sent)  # 2
        given = replace(
            endorsements,
            certificates=(*sent.certificates, *endorsements.certificates),
            rims=(*sent.rims, *endorsements.rims),
        )
        reports.append(verify_member(member.tee, member.data, given))  # 3
    cpu, *gpus = reports
    with checks.check("composite.binding", "CPU and GPUs vouch for the same occasion"):  # 4
        for number, gpu in enumerate(gpus):
            _check_binding(cpu, gpu, number)
    with checks.check("composite.duplicates", "no GPU is counted twice"):  # 5
        _check_duplicates(gpus)
    return replace(cpu, gpus=tuple(gpus), checks=checks.done())


def _check_binding(cpu: VerifiedReport, gpu: VerifiedReport, number: int) -> None:
    if not hmac.compare_digest(bytes(cpu.report_data), bytes(gpu.report_data)):
        raise NotGenuineError(
            "composite.binding",
            "a GPU's report was made for another occasion than the CPU's evidence",
            field=f"gpus[{number}].nonce",
            expected=cpu.report_data.hex(),
            got=gpu.report_data.hex(),
            remedy="Ask every GPU with the nonce that the CPU's evidence binds.",
        )


def _check_duplicates(gpus: list[VerifiedReport]) -> None:
    devices = [gpu.claims["device"] for gpu in gpus]
    for number, device in enumerate(devices):
        if device in devices[:number]:
            assert isinstance(device, bytes)
            raise NotGenuineError(
                "composite.duplicate",
                "one GPU is counted twice",
                field=f"gpus[{number}].device",
                expected="a GPU that isn't among the others",
                got=device.hex(),
                remedy="Ask each GPU once.",
            )
