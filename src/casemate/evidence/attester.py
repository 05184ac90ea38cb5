"""What every driver offers."""

from __future__ import annotations

from typing import Protocol

from casemate.evidence.envelope import Evidence
from casemate.types import ReportData


class Attester(Protocol):
    """Makes Evidence. A call may block for a long time: keep it off an event loop."""

    def attest(self, report_data: ReportData) -> Evidence:
        """Evidence that binds ``report_data``.

        Never call it for report data that somebody else chose: it would vouch for them.

        Raises:
            UnavailableError: the platform can't answer now.
        """
        ...
