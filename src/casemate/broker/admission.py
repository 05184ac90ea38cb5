"""Admission: hold a verified peer against every policy, once a connection."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from casemate.errors import CasemateError, Mismatch, NotAcceptableError
from casemate.evidence import Tee
from casemate.policy import AppraisedReport, PolicyDocument, appraise
from casemate.protocol import VerifiedPeer
from casemate.verify import Known, VerifiedReport
from casemate.verify.forecast import Forecast, forecast_end, forecast_recovery, known_ends

_TIMELESS = (Tee.SIMULATED, Tee.IDENTITY_KEY)
"""Their evidence has no certificate that could end: only a policy can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """An admitted peer.

    Args:
        peer: genuine and bound to its connection.
        appraised: by the name of the policy that holds.
        mismatches: why the other policies don't, for the audit trail.
        forecast: when that will end, as far as it can be told.
    """

    peer: VerifiedPeer
    appraised: Mapping[str, AppraisedReport]
    mismatches: tuple[Mismatch, ...]
    forecast: tuple[Forecast, ...] = ()


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


def foretell(
    document: PolicyDocument,
    admission: Admission,
    *,
    at: datetime.datetime,
    within: datetime.timedelta,
) -> Admission:
    """Say when a peer that is admitted now won't be any more, for the same policies.

    Args:
        document: the policies.
        admission: of a peer, at that time.
        at: the time.
        within: how far to look ahead; nothing is foretold for no time at all.

    Returns:
        The admission, which doesn't hold on to the evidence any more.
    """
    peer = admission.peer
    timeless = peer.report.tee in _TIMELESS and not peer.report.gpus
    again, known = (lambda _: peer.report) if timeless else peer.again, peer.known
    rest = replace(admission, peer=replace(peer, again=None, known=None))
    if again is None or not within:
        return rest
    found: list[Forecast | None] = [
        forecast_end(
            lambda moment: _refusal(
                document, admission, again, replace(known, at=moment) if known else None, moment
            ),
            at=at,
            within=within,
            ends=known_ends(known.endorsements) if known else (),
        )
    ]
    if known is not None and known.endorsements.dcap_early is not None:
        early = replace(known.endorsements, dcap=known.endorsements.dcap_early)
        try:
            later = again(replace(known, endorsements=early)).claims
        except CasemateError:
            later = None
        error = _refusal(document, admission, again, replace(known, endorsements=early), at)
        found.append(forecast_recovery(peer.report.claims, later, error))
    return replace(rest, forecast=tuple(each for each in found if each is not None))


def _refusal(
    document: PolicyDocument,
    admission: Admission,
    again: Callable[[Known | None], VerifiedReport],
    known: Known | None,
    at: datetime.datetime,
) -> CasemateError | None:
    """Why one of the policies that hold now doesn't hold then; None if all do."""
    try:
        report = again(known)
        for name in admission.appraised:
            policy = document.policies[name]
            appraise(policy, report, launch=admission.peer.claims.launch, at=at)
    except CasemateError as error:
        return error
    return None
