"""Checks with names: what was verified, in order, and what each is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from casemate.errors import CasemateError


@dataclass(frozen=True, slots=True)
class Check:
    """A check that was made.

    Args:
        name: stable, dotted: ``snp.signature``.
        purpose: what it is for, as a sentence.
        held: whether it held. What fails also raises; nothing goes on after it.
    """

    name: str
    purpose: str
    held: bool


class CheckList:
    """Collects the checks of one verification, so that people can see what was done."""

    def __init__(self) -> None:
        self._checks: list[Check] = []

    @contextmanager
    def check(self, name: str, purpose: str) -> Iterator[None]:
        """Within, the check is made: it holds unless an error is raised.

        Raises:
            CasemateError: whatever the check raises, with the list so far as ``checks``.
        """
        try:
            yield
        except CasemateError as error:
            self._checks.append(Check(name, purpose, held=False))
            error.add_note(f"failed check: {name}")
            raise
        self._checks.append(Check(name, purpose, held=True))

    def done(self) -> tuple[Check, ...]:
        """The checks so far."""
        return tuple(self._checks)
