"""What a peer presents, and what is known of it once its evidence is verified and bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from casemate.evidence.message import PresentedEvidence
from casemate.protocol.binding import Claims, bound_claims
from casemate.types import Nonce
from casemate.verify import Known, TrustAnchors, VerifiedReport, verify_evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """A peer whose evidence is genuine and bound to its key and, with a nonce, to this exchange.

    Args:
        report: what its evidence says.
        claims: what that binds.
        spki: the key that the peer proved to hold, DER SubjectPublicKeyInfo.
        known: what its evidence was held against, if anything.
        again: verifies the same evidence against other knowledge; holds on to the evidence.

    Does not check: any policy. That is `casemate.policy.appraise`'s matter.
    """

    report: VerifiedReport
    claims: Claims
    spki: bytes
    known: Known | None = field(default=None, repr=False, compare=False)
    again: Callable[[Known | None], VerifiedReport] | None = field(
        default=None, repr=False, compare=False
    )


def verify_peer(
    presented: PresentedEvidence,
    *,
    anchors: TrustAnchors,
    spki: bytes,
    nonce: Nonce | None,
    known: Known | None = None,
) -> VerifiedPeer:
    """Verify what a peer presents.

    Args:
        presented: as received.
        anchors: the keys at the end of the chains.
        spki: DER SubjectPublicKeyInfo of the key that the peer proved to hold.
        nonce: what makes it fresh (`casemate.protocol.binding.bound_claims`).
        known: what hardware's evidence is held against.

    Raises:
        MalformedError: evidence or claims can't be parsed.
        NotGenuineError: signature, chain or binding doesn't hold.
        UnavailableError: it can't be told with what is known.
    """
    # 1. The evidence itself: nothing in it counts before this.
    report = verify_evidence(presented.evidence, anchors=anchors, known=known)
    # 2. What it binds: claims, key, freshness.
    claims = bound_claims(
        presented.claims_buffer, report_data=report.report_data, spki=spki, nonce=nonce
    )
    return VerifiedPeer(
        report=report,
        claims=claims,
        spki=spki,
        known=known,
        again=lambda other: verify_evidence(presented.evidence, anchors=anchors, known=other),
    )
