"""An error as a person reads it: cause and code first, then what was expected, then the remedy."""

from __future__ import annotations

from casemate.errors.causes import CasemateError, NotAcceptableError


def render_error(error: CasemateError, *, program: str = "casemate") -> str:
    """Several lines of text, without a newline at the end."""
    lines = [f"{program}: {error.cause}: {error.message} [{error.code}]"]
    for label, text in (
        ("field", error.field),
        ("expected", error.expected),
        ("got", error.got),
    ):
        if text is not None:
            lines.append(f"  {label + ':':<10}{text}")
    if isinstance(error, NotAcceptableError):
        lines += [f"  - {mismatch}" for mismatch in error.mismatches]
    if error.remedy is not None:
        lines.append(f"  {'remedy:':<10}{error.remedy}")
    return "\n".join(lines)
