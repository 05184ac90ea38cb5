"""Evidence of a machine with GPUs: the CPU's and each GPU's, for the same report data.

Source: specs/composite-evidence.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from casemate.evidence import Attester, Evidence, Tee
from casemate.evidence.composite import encode_composite_evidence
from casemate.tee.platform import MachineTee
from casemate.types import ReportData, Sha384


class CompositeTee:
    """A CPU's TEE and the GPUs beside it.

    Args:
        cpu: the CPU's.
        gpus: one for each GPU.
    """

    def __init__(self, cpu: MachineTee, gpus: Sequence[Attester]) -> None:
        self._cpu, self._members = cpu, (cpu, *gpus)

    def attest(self, report_data: ReportData) -> Evidence:
        """Evidence of all of them, or of none.

        Raises:
            UnavailableError, UsageError: what any of them raises.
        """
        members = [each.attest(report_data) for each in self._members]
        return Evidence(tee=Tee.COMPOSITE, data=encode_composite_evidence(members))

    def extend(self, digest: Sha384) -> str | None:
        """Extend the CPU's register; GPUs have none for what runs beside them."""
        return self._cpu.extend(digest)
