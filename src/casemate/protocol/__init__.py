"""What the programs say to each other: claims, evidence, contracts, messages. No I/O."""

from casemate.evidence.message import PresentedEvidence
from casemate.protocol.binding import Claims, bound_claims, encode_claims, report_data_for
from casemate.protocol.peer import VerifiedPeer, verify_peer

__all__ = [
    "Claims",
    "PresentedEvidence",
    "VerifiedPeer",
    "bound_claims",
    "encode_claims",
    "report_data_for",
    "verify_peer",
]
