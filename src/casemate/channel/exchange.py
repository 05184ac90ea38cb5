"""The two steps of a handshake that take time: make our evidence, judge the peer's.

Servers and clients share them; both call them where blocking is allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from casemate.channel.engine import JudgeEvidence, PresentEvidence
from casemate.channel.party import ChannelParty
from casemate.protocol import (
    Claims,
    PresentedEvidence,
    VerifiedPeer,
    encode_claims,
    report_data_for,
    verify_peer,
)
from casemate.types import sha256

T = TypeVar("T")


def make_evidence(party: ChannelParty, turn: PresentEvidence) -> PresentedEvidence:
    """Our evidence for this connection. The report data is of our own making, always."""
    claims_buffer = encode_claims(
        Claims(pubkey_hash=sha256(turn.spki), nonce=turn.nonce, launch=party.launch)
    )
    evidence = party.attester.attest(report_data_for(claims_buffer))
    return PresentedEvidence(evidence=evidence, claims_buffer=claims_buffer)


def judge_evidence(
    party: ChannelParty, turn: JudgeEvidence, judge: Callable[[VerifiedPeer], T]
) -> T:
    """Verify the peer's evidence for this connection, then ask ``judge``, who raises to refuse."""
    peer = verify_peer(
        turn.presented,
        anchors=party.anchors,
        spki=turn.spki,
        nonce=turn.nonce,
        known=party.knowledge(turn.presented.evidence) if party.knowledge is not None else None,
    )
    return judge(peer)
