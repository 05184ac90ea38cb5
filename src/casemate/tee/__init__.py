"""The machine's own TEE: obtain Evidence for report data of one's own making."""

from casemate.tee.attester import Attester

__all__ = ["Attester"]
