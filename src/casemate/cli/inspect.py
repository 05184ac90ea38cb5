"""``casemate inspect``: what stands in this file?"""

from __future__ import annotations

import json
from pathlib import Path

import click

from casemate.encoding import JsonValue
from casemate.errors.render import printable
from casemate.project.files import read_file
from casemate.project.inspection import NOTICE, inspect


@click.command(epilog="Example:  casemate inspect quote.bin")
@click.argument("evidence", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Show it as JSON on stdout.")
def command(evidence: Path, as_json: bool) -> None:
    """Show what stands in EVIDENCE, without verifying any of it.

    Takes evidence of every kind, attested and other certificates, tokens, endorsements
    (revocation lists, collateral, manifests, key sets) and event logs.
    """
    found = inspect(read_file(evidence, field="evidence"))
    if as_json:
        click.echo(json.dumps(found.as_dict()))
        return
    click.echo(NOTICE, err=True)
    click.echo(f"{evidence}: {found.kind}, not verified")
    for line in _lines(found.content, "  "):
        click.echo(line)
    click.echo(NOTICE, err=True)


def _lines(value: JsonValue, indent: str) -> list[str]:
    lines: list[str] = []
    pairs = (
        list(value.items())
        if isinstance(value, dict)
        else [(f"[{number}]", item) for number, item in enumerate(value)]
        if isinstance(value, list)
        else [("", value)]
    )
    for name, item in pairs:
        if isinstance(item, dict | list) and item and not _short(item):
            lines += [f"{indent}{printable(name)}:", *_lines(item, indent + "  ")]
        else:
            lines.append(f"{indent}{printable(name) + ':':<26} {_one(item)}".rstrip())
    return lines


def _short(value: JsonValue) -> bool:
    """Whether it fits into a line: lists of numbers and texts, and the size of long bytes."""
    if isinstance(value, dict):
        return set(value) == {"bytes", "sha256"}
    return isinstance(value, list) and (len(value) == 1 or len(str(value)) < 72) and not any(
        isinstance(item, dict | list) for item in value
    )  # fmt: skip


def _one(value: JsonValue) -> str:
    match value:
        case None:
            return "absent"
        case bool():
            return "true" if value else "false"
        case dict() if _short(value):
            return f"{value['bytes']} bytes, SHA-256 {value['sha256']}"
        case dict() | list():
            return ", ".join(printable(str(item)) for item in value) or "none"
        case _:
            return printable(str(value))
