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
