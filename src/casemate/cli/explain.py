"""``casemate explain``: why was this refused, and what would have to change?"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click

from casemate.cli.options import TIME, collateral_options
from casemate.errors.render import printable
from casemate.policy import PolicyDocument
from casemate.project.audit_lines import choose_line, is_audit_trail
from casemate.project.collateral import Place
from casemate.project.explanation import (
    Explanation,
    explain_line,
    explain_outcome,
)
from casemate.project.files import read_file, read_text
from casemate.project.verification import Expected, Verification

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog="Example:  casemate explain audit.jsonl --policy policy.toml")
@click.argument("source", type=_FILE)
@click.option("--policy", type=_FILE, help="The policy document to replay it against.")
@click.option("--id", "correlation_id", help="Of an audit trail, the connection's refusal.")
@click.option(
    "--endorsements", type=_FILE, multiple=True, help="For evidence, as for casemate verify."
)
@collateral_options
@click.option("--claims", type=_FILE, help="For evidence: the claims buffer that it binds.")
@click.option("--at", type=TIME, help="For evidence: the time of judging.  [default: now]")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    source: Path,
    policy: Path | None,
    correlation_id: str | None,
    endorsements: tuple[Path, ...],
    bundle_key: tuple[Path, ...],
    place: Place,
    claims: Path | None,
    at: datetime.datetime | None,
    as_json: bool,
) -> None:
    """Explain why SOURCE was refused: a broker's audit file (its last refusal), or evidence.

    Shows each mismatch, what it means, and the smallest change of the policy that would accept,
    with the reasons why that may be unwise. Changes nothing.
    """
    data = read_file(source, field="source")
    if is_audit_trail(data):
        document = PolicyDocument.parse(read_text(policy, field="--policy")) if policy else None
        found = explain_line(choose_line(data, correlation_id), document)
    elif policy is None:
        raise click.UsageError("Evidence is explained against a policy: --policy FILE")
    else:
        verification = Verification.load(
            tee=None,
            endorsements=endorsements,
            bundle_keys=bundle_key,
            place=place,
            eventlog=None,
            at=at or datetime.datetime.now(datetime.UTC),
            expected=Expected(
                policy=policy,
                claims=read_file(claims, field="--claims") if claims is not None else None,
            ),
        )
        found = explain_outcome(verification.verify(data), verification)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        _print(found)


def _print(found: Explanation) -> None:
    verdict = "accepted" if found.accepted else "refused"
    click.echo(f"evidence: {printable(found.tee or 'unknown')}, {verdict}")
    for name in ("code", "message", "field", "expected", "got", "remedy"):
        if found.error is not None and name in found.error:
            click.echo(f"  {name + ':':<10}{printable(str(found.error[name]))}")
    for each in found.mismatches:
        click.echo(f"\n{printable(each.where)}: {printable(each.field)}")
        for label, text in (
            ("expected", each.expected),
            ("got", each.got),
            ("meaning", each.meaning),
            ("do", each.remedy),
            ("change", each.change),
            ("UNWISE", each.unwise),
        ):
            if text is not None:
                click.echo(f"  {label + ':':<10}{printable(text)}")
    for proposal in found.proposals:
        click.echo(f"\nThe smallest change that accepts it, in {proposal.where}:\n")
        click.echo(proposal.toml)
        click.echo("")
        for reason in proposal.unwise:
            click.echo(f"UNWISE, {printable(reason)}")
        if not proposal.unwise:
            click.echo("Make it only if you know that these values are right.")
    if found.mismatches and not found.proposals and found.note is None:
        click.echo("\nNo small change accepts it: see what is to be done for each.")
    if found.note is not None:
        click.echo(f"\n{found.note}")
