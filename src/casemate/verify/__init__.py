"""Is it genuine? Evidence, endorsements, pinned roots and the time give a `VerifiedReport`."""

from casemate.verify.report import ClaimValue, VerifiedReport
from casemate.verify.verifier import Known, TrustAnchors, verify_evidence

__all__ = ["ClaimValue", "Known", "TrustAnchors", "VerifiedReport", "verify_evidence"]
