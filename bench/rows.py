"""One measured figure, beside what it is measured against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the report.

    Args:
        area: the area that was measured: ``serving``.
        name: what was measured.
        value: the figure.
        unit: of ``value``.
        against: what it is compared with; None where it stands alone.
        ratio: ``value`` by that other figure, from the same run.
        aim: what ``ratio``, or ``value`` where there is no ratio, should reach or stay under.
        met: whether it does.
    """

    area: str
    name: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    aim: float | None = None
    met: bool | None = None


def compared(
    area: str,
    name: str,
    value: float,
    unit: str,
    *,
    against: str,
    reference: float,
    least: float | None = None,
) -> Row:
    """A figure as a ratio of ``reference``, which should be at least ``least``."""
    ratio = value / reference
    met = None if least is None else ratio >= least
    return Row(
        area=area,
        name=name,
        value=value,
        unit=unit,
        against=against,
        ratio=ratio,
        aim=least,
        met=met,
    )


def limited(
    area: str,
    name: str,
    value: float,
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Row:
    """A figure by itself, with a limit it should keep, or none."""
    aim, met = None, None
    if at_most is not None:
        aim, met = at_most, value <= at_most
    elif at_least is not None:
        aim, met = at_least, value >= at_least
    return Row(area=area, name=name, value=value, unit=unit, aim=aim, met=met)
