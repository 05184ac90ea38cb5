"""What is wrong with a model's file."""

from __future__ import annotations

from casemate.errors import MalformedError


def malformed(field: str, expected: str, got: str) -> MalformedError:
    """A header that isn't what it should be."""
    return MalformedError(
        "model.malformed",
        f"a file of the model has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
        remedy="Fetch the file again, or convert the model anew.",
    )
