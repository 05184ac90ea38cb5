"""An error as a person reads it: cause and code first, then what was expected, then the remedy."""

from __future__ import annotations

from casemate.errors.causes import CasemateError, NotAcceptableError


def printable(text: str) -> str:
    """A stranger's text for a terminal: it doesn't get to move the cursor or start a line."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def render_error(error: CasemateError, *, program: str = "casemate") -> str:
    """Several lines of text, without a newline at the end."""
    lines = [f"{program}: {error.cause}: {printable(error.message)} [{error.code}]"]
    for label, text in (
        ("field", error.field),
        ("expected", error.expected),
        ("got", error.got),
    ):
        if text is not None:
            lines.append(f"  {label + ':':<10}{printable(text)}")
    if isinstance(error, NotAcceptableError):
        lines += [f"  - {printable(str(mismatch))}" for mismatch in error.mismatches]
    if error.remedy is not None:
        lines.append(f"  {'remedy:':<10}{printable(error.remedy)}")
    return "\n".join(lines)
