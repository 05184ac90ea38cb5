"""When will evidence that passes now stop passing, and what will newer knowledge say of it?

Nothing is guessed from dates in certificates: the judgement itself is made again, at later times
and with the vendor's newer word, so what is foretold is what happens if nobody does anything.

 1. What passes now and not at the end of the span stops in between, once: certificates, revocation
    lists, collateral and tokens end and stay ended, and ages only grow. The moment is found by
    halving, to the minute: first the moments at which something is known to end, for it is mostly
    one of these and a judgement takes as long as a verification, then what time is left.
 2. Intel publishes TCB information early, with a higher ``tcbEvaluationDataNumber``, before that
    becomes the standard. Where it is at hand beside the standard one, its verdict is compared.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from casemate.endorsements.collection import Endorsements
from casemate.errors import CasemateError, UnavailableError
from casemate.verify.report import ClaimValue

_MINUTE = datetime.timedelta(minutes=1)
_SECOND = datetime.timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Something that is to come.

    Args:
        kind: ``ends`` where evidence stops passing by itself; ``refresh`` where it can't be judged
            any more without newer collateral; ``tcb-recovery`` where it will be judged otherwise
            once the vendor's early word is the standard.
        passes: whether it passes then.
        at: the last minute in which it passes; None where only the vendor knows.
        what: in a sentence, for people.
        code: of the refusal that follows, if any.
        field: what it is about.
        remedy: what to do before.
    """

    kind: str
    passes: bool
    at: datetime.datetime | None
    what: str
    code: str | None
    field: str | None
    remedy: str | None

    def as_dict(self) -> dict[str, str | bool]:
        """A JSON-ready object; absent parts are left out."""
        pairs: dict[str, str | bool | None] = {
            "kind": self.kind,
            "passes": self.passes,
            "at": self.at.isoformat() if self.at is not None else None,
            "what": self.what,
            "code": self.code,
            "field": self.field,
            "remedy": self.remedy,
        }
        return {name: value for name, value in pairs.items() if value is not None}


def forecast_end(
    judge: Callable[[datetime.datetime], CasemateError | None],
    *,
    at: datetime.datetime,
    within: datetime.timedelta,
    ends: Iterable[datetime.datetime] = (),
) -> Forecast | None:
    """Whether evidence that passes at a time stops passing within a span, and when.

    Args:
        judge: the whole judgement at a time: None, or why it doesn't pass.
        at: a time at which it passes.
        within: how far to look ahead.
        ends: when something that it rests on ends. Only where to look first: what is told is the
            judgement's.
    """
    error = judge(at + within)  # 1
    if error is None:
        return None
    good, bad = at, at + within
    around = sorted({end + side for end in ends for side in (-_SECOND, _SECOND)})
    likely = [moment for moment in around if good < moment < bad]
    while likely:
        half = len(likely) // 2
        found = judge(likely[half])
        if found is None:
            good, likely = likely[half], likely[half + 1 :]
        else:
            bad, error, likely = likely[half], found, likely[:half]
    while bad - good > _MINUTE:
        middle = good + (bad - good) / 2
        found = judge(middle)
        if found is None:
            good = middle
        else:
            bad, error = middle, found
    return Forecast(
        kind="refresh" if isinstance(error, UnavailableError) else "ends",
        passes=False,
        at=good.replace(microsecond=0),
        what=f"From {good:%Y-%m-%d %H:%M} UTC on this doesn't pass any more: {error.message}",
        code=error.code,
        field=error.field,
        remedy=error.remedy,
    )


def known_ends(endorsements: Endorsements) -> Iterator[datetime.datetime]:
    """When each endorsement ends by its own word."""
    if endorsements.dcap is not None:
        yield endorsements.dcap.valid_until
    for certificate in endorsements.certificates:
        yield certificate.not_valid_after_utc
    for revocations in endorsements.revocation_lists:
        if revocations.next_update_utc is not None:
            yield revocations.next_update_utc


def forecast_recovery(
    now: Mapping[str, ClaimValue],
    early: Mapping[str, ClaimValue] | None,
    error: CasemateError | None,
) -> Forecast | None:
    """What the vendor's early word will change.

    Args:
        now: the claims under the standard one.
        early: the claims under the early one; None where it isn't genuine under that.
        error: why it doesn't pass then, if it doesn't.

    Returns:
        None where nothing changes but the number of the edition.
    """
    changed = [
        f"{name} {_show(now.get(name))} → {_show(early.get(name))}"
        for name in ("tcb_status", "advisories")
        if early is not None and now.get(name) != early.get(name)
    ]  # 2
    if not changed and error is None:
        return None
    number = early.get("tcb_evaluation_data_number") if early is not None else None
    edition = f" (edition {_show(number)})" if number is not None else ""
    return Forecast(
        kind="tcb-recovery",
        passes=error is None,
        at=None,
        what=f"When Intel's early TCB information{edition} becomes the standard: "
        + ("; ".join(changed) or (error.message if error is not None else "")),
        code=error.code if error is not None else None,
        field=error.field if error is not None else "tcb_status",
        remedy="Update the platform's firmware and microcode before.",
    )


def _show(value: ClaimValue | None) -> str:
    match value:
        case tuple():
            return ", ".join(value) or "none"
        case int() | str():
            return str(value)
        case _:
            return "unknown"
