"""The reference of errors has every code that attestation raises, with its exit code."""

import ast
import re
from pathlib import Path

import pytest

from casemate.errors import (
    CasemateError,
    InternalError,
    MalformedError,
    NotAcceptableError,
    NotGenuineError,
    UnavailableError,
    UsageError,
)

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "casemate"
PACKAGES = (
    "encoding",
    "types",
    "evidence",
    "endorsements",
    "verify",
    "policy",
    "collateral",
    "tee",
)
MODULES = (
    "verification",
    "results",
    "explanation",
    "audit_lines",
    "inspection",
    "obtaining",
    "enrolling",
)
CAUSES = {
    each.__name__: str(each.exit_code)
    for each in (
        CasemateError, InternalError, MalformedError, NotAcceptableError, NotGenuineError,
        UnavailableError, UsageError,
    )
}  # fmt: skip
ROW = re.compile(r"^\| (`[^|]*`) \| ([0-9, ]+) \|", re.MULTILINE)


def trees():
    files = [path for package in PACKAGES for path in (SOURCES / package).rglob("*.py")]
    files += [SOURCES / "project" / f"{name}.py" for name in MODULES]
    return [ast.parse(path.read_text()) for path in files]


TREES = trees()
TEXTS = {
    node.value
    for tree in TREES
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
}


def raised():
    """Codes that are written out where an error is made, and the exit codes they come with."""
    found = {}
    for tree in TREES:
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args):
                continue
            if node.func.id in CAUSES and isinstance(node.args[0], ast.Constant):
                found.setdefault(node.args[0].value, set()).add(CAUSES[node.func.id])
    return found


def documented():
    text = (ROOT / "docs" / "reference" / "errors.md").read_text()
    return {
        code: set(exits.replace(" ", "").split(","))
        for codes, exits in ROW.findall(text)
        for code in re.findall(r"`([^`]+)`", codes)
    }


RAISED, DOCUMENTED = raised(), documented()


@pytest.mark.parametrize("code", sorted(RAISED))
def test_what_is_raised_is_documented(code):
    name = code if code in DOCUMENTED else re.sub(r"^[a-z-]+\.", "*.", code)
    assert name in DOCUMENTED, f"{code} isn't in docs/reference/errors.md"
    assert RAISED[code] <= DOCUMENTED[name], f"{code}: exit codes"


@pytest.mark.parametrize("code", sorted(DOCUMENTED))
def test_what_is_documented_is_raised(code):
    suffix = code.split(".", 1)[1]
    written = {suffix, suffix.replace("-", "_"), suffix.replace("-", " "), f".{suffix}"}
    assert code in TEXTS or written & TEXTS, f"nothing raises {code}"
