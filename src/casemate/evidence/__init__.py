"""Evidence: bytes to frozen reports, one module a TEE. `casemate.verify` says what is genuine."""

from casemate.evidence.attester import Attester
from casemate.evidence.envelope import CHANNEL_TEES, Evidence, Tee

__all__ = ["CHANNEL_TEES", "Attester", "Evidence", "Tee"]
