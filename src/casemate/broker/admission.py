"""Admission: hold a verified peer against every policy, once a connection."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

from casemate.errors import Mismatch, NotAcceptableError
from casemate.policy import AppraisedReport, PolicyDocument, appraise
from casemate.protocol import VerifiedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An admitted peer.

    Args:
        peer: genuine and bound to its connection.
        appraised: by the name of the policy that holds.
        mismatches: why the other policies don't, for the audit trail.
    """

    peer: VerifiedPeer
    appraised: Mapping[str, AppraisedReport]
    mismatches: tuple[Mismatch, ...]


class PeerRefusedError(NotAcceptableError):
    """No policy holds for a peer whose evidence is genuine; says whose."""

    def __init__(self, peer: VerifiedPeer, refusals: tuple[NotAcceptableError, ...]) -> None:
        mismatches = tuple(mismatch for error in refusals for mismatch in error.mismatches)
        super().__init__(
            "policy.mismatch",
            "no policy holds for this launcher",
            field=mismatches[0].field,
            mismatches=mismatches,
            remedy=mismatches[0].remedy,
        )
        self.peer = peer


def admit(document: PolicyDocument, peer: VerifiedPeer, *, at: datetime.datetime) -> Admission:
    """Hold a peer against every policy.

    Args:
        document: the policies.
        peer: genuine and bound.
        at: the time.

    Raises:
        PeerRefusedError: none holds; lists every mismatch.
    """
    appraised: dict[str, AppraisedReport] = {}
    refusals: list[NotAcceptableError] = []
    for name, policy in document.policies.items():
        try:
            appraised[name] = appraise(policy, peer.report, launch=peer.claims.launch, at=at)
        except NotAcceptableError as error:
            refusals.append(error)
    if not appraised:
        raise PeerRefusedError(peer, tuple(refusals))
    return Admission(
        peer=peer,
        appraised=appraised,
        mismatches=tuple(mismatch for error in refusals for mismatch in error.mismatches),
    )
