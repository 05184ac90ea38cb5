"""The stage after verification: claims that are genuine, and not yet judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from casemate.encoding import JsonValue
from casemate.evidence import Tee
from casemate.types import ReportData
from casemate.verify.checks import Check

ClaimValue: TypeAlias = bool | int | str | bytes | tuple[str, ...] | Mapping[str, int]
"""A claim: lists are of texts, mappings are security versions by component."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReport:
    """Evidence whose signatures and chain hold.

    Args:
        tee: who vouches.
        report_data: the 64 bytes that the evidence binds.
        claims: what it says, by the names that policies use.
        checks: what was checked, in order; every one held.
        gpus: those whose reports stand beside a CPU's (`casemate.verify.composite`).

    Does not check: whether ``report_data`` binds what the caller thinks
    (`casemate.protocol.binding`), nor whether the claims are acceptable (`casemate.policy`).
    """

    tee: Tee
    report_data: ReportData
    claims: Mapping[str, ClaimValue]
    checks: tuple[Check, ...] = ()
    gpus: tuple[VerifiedReport, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", MappingProxyType(dict(self.claims)))


def claim_as_json(value: ClaimValue) -> JsonValue:
    """A claim as JSON: bytes in hex, lists and mappings as they are."""
    match value:
        case bytes():
            return value.hex()
        case tuple():
            return list(value)
        case Mapping():
            return dict(value)
        case _:
            return value
