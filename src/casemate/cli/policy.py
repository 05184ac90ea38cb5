"""``casemate policy``: write down who gets which secret."""

from __future__ import annotations

import datetime
import json
from dataclasses import asdict
from pathlib import Path

import click

from casemate.cli.options import TIME, tee_options
from casemate.errors import NotAcceptableError
from casemate.policy import PolicyDocument
from casemate.policy.compare import Difference, differences
from casemate.policy.constraint import describe
from casemate.policy.occlum import policy_from_occlum
from casemate.policy.review import Finding, Weight, review
from casemate.project.contracts import read_contract_file
from casemate.project.files import read_file, read_text, write_public
from casemate.project.policies import policy_for_evidence, policy_for_launcher
from casemate.tee.simulated import DevelopmentRoot, development_root_path, measure_launcher

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Write down who gets which secret (specs/release-policy.md)."""


@command.command(epilog="Example:  casemate policy new launch.cbor policy.toml --tee simulated")
@click.argument("paths", type=_FILE, nargs=-1, required=True, metavar="[CONTRACT] OUTPUT")
@tee_options
@click.option("--from", "evidence", type=_FILE, help="Make it from this genuine evidence.")
@click.option(
    "--endorsements", type=_FILE, multiple=True, help="What that evidence is verified with."
)
@click.option("--at", type=TIME, help="The time at which all must be valid.  [default: now]")
@click.option("--pin-machine", is_flag=True, help="Accept the machine of the evidence alone.")
@click.option("--from-occlum", type=_FILE, help="Read Occlum's ra_config.json.")
@click.option("--secret", "secrets", multiple=True, help="A secret that it releases.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def new(
    paths: tuple[Path, ...],
    tee: str | None,
    development_root: Path | None,
    evidence: Path | None,
    endorsements: tuple[Path, ...],
    at: datetime.datetime | None,
    pin_machine: bool,
    from_occlum: Path | None,
    secrets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the policy OUTPUT, and never over a file: you may have edited it.

    \b
    With --tee simulated: for the launcher in this installation and for CONTRACT.
    With --from: for what the evidence is of; every field is demanded as it is
    there, but for those that differ from machine to machine or boot to boot.
    With --from-occlum: with the exact meaning of Occlum's configuration.

    CONTRACT is the launch contract that is pinned, whose secrets are released; with --from it may
    be left out.
    """
    if len(paths) > 2 or sum(map(bool, (tee, evidence, from_occlum))) != 1:
        raise click.UsageError(
            "Give [CONTRACT] OUTPUT, and one of --tee simulated, --from and --from-occlum."
        )
    *contracts, output = paths
    contract = read_contract_file(contracts[0]) if contracts else None
    notes: list[str] = []
    report: dict[str, object] = {"policy": str(output)}
    if evidence is not None:
        derived = policy_for_evidence(
            evidence, endorsements=endorsements, at=at or _now(), contract=contract,
            pin_machine=pin_machine, secrets=secrets,
        )  # fmt: skip
        document = derived.document
        report |= {"tee": derived.tee, "mismatches": [asdict(each) for each in derived.mismatches]}
        notes = [f"The evidence itself isn't good enough: {each}" for each in derived.mismatches]
    elif from_occlum is not None:
        if contract is not None:
            raise click.UsageError("Occlum's configuration knows no launch contract.")
        read = policy_from_occlum(read_file(from_occlum, field="--from-occlum"), secrets=secrets)
        document, notes = read.document, list(read.notes)
        report |= {"notes": notes}
    else:
        if contract is None:
            raise click.UsageError("Name the launch contract.")
        root = DevelopmentRoot.load_or_create(development_root or development_root_path())
        measurement = measure_launcher()
        document = policy_for_launcher(contract, root=root, measurement=measurement)
        report |= {"measurement": str(measurement)}
    comments = "".join(f"# {note}\n" for note in notes) if from_occlum is not None else ""
    write_public(output, (comments + document.render()).encode())
    report |= {"secrets": sorted(document.secrets)}
    if as_json:
        click.echo(json.dumps(report))
        return
    released = ", ".join(sorted(document.secrets)) or "nothing yet: add [secrets]"
    click.echo(f"{output}: releases {released}", err=True)
    for note in notes:
        click.echo(f"  {note}", err=True)


@command.command(epilog="Example:  casemate policy show policy.toml")
@click.argument("policy", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def show(policy: Path, as_json: bool) -> None:
    """Check POLICY and say what it demands for each secret."""
    document = PolicyDocument.parse(read_text(policy, field="policy"))
    alternatives = {
        name: [
            {"tee": each.tee.value}
            | ({"expires": each.expires.isoformat()} if each.expires else {})
            | ({"condition": each.condition.text} if each.condition else {})
            | {field.name: describe(field, constraint) for field, constraint in each.fields()}
            | {
                f"gpus.{field.name}": describe(field, constraint)
                for field, constraint in each.gpu_fields()
            }
            for each in parsed.alternatives
        ]
        for name, parsed in document.policies.items()
    }
    if as_json:
        secrets = {name: list(names) for name, names in document.secrets.items()}
        click.echo(json.dumps({"secrets": secrets, "policies": alternatives}))
        return
    for name, demanded in document.secrets.items():
        click.echo(f"secret {name}: {' and '.join(demanded)}")
    for name, choices in alternatives.items():
        for index, choice in enumerate(choices):
            click.echo(f"{'or' if index else 'policy ' + name}:")
            for field, wanted in choice.items():
                click.echo(f"  {field + ':':<13}{wanted}")


@command.command(epilog="Example:  casemate policy check policy.toml")
@click.argument("policy", type=_FILE)
@click.option("--at", type=TIME, help="The time to look at ends and dates at.  [default: now]")
@click.option("--strict", is_flag=True, help="Refuse what has warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def check(policy: Path, at: datetime.datetime | None, strict: bool, as_json: bool) -> int:
    """Look for contradictions, weak rules and expired ends in POLICY.

    \b
    Exit codes: 0 nothing but warnings and notes, 3 malformed, 5 an error (with --strict, or a
    warning).
    """
    document = PolicyDocument.parse(read_text(policy, field="policy"))
    findings = review(document, at=at or _now())
    refused = {Weight.ERROR, Weight.WARNING} if strict else {Weight.ERROR}
    accepted = not any(finding.weight in refused for finding in findings)
    if as_json:
        report = {"accepted": accepted, "findings": [asdict(finding) for finding in findings]}
        click.echo(json.dumps(report))
    else:
        _print_findings(findings)
    return 0 if accepted else NotAcceptableError.exit_code


@command.command(epilog="Example:  casemate policy diff old.toml new.toml")
@click.argument("first", type=_FILE)
@click.argument("second", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def diff(first: Path, second: Path, as_json: bool) -> None:
    """Say in what FIRST and SECOND differ, and which of them is stricter there.

    What is only written in another way is no difference.
    """
    documents = [
        PolicyDocument.parse(read_text(path, field=name))
        for name, path in (("FIRST", first), ("SECOND", second))
    ]
    found = differences(*documents)
    if as_json:
        report = {"same": not found, "differences": [asdict(each) for each in found]}
        click.echo(json.dumps(report))
    else:
        _print_differences(found)


def _print_findings(findings: tuple[Finding, ...]) -> None:
    for finding in findings:
        click.echo(f"{finding.weight}: {finding.where}: {finding.field}: {finding.what}")
        click.echo(f"  remedy: {finding.remedy}")
    if not findings:
        click.echo("Nothing to find fault with.", err=True)


def _print_differences(found: tuple[Difference, ...]) -> None:
    for each in found:
        click.echo(f"{each.where}: {each.field}: {each.verdict}")
        click.echo(f"  first:  {each.first}")
        click.echo(f"  second: {each.second}")
    if not found:
        click.echo("They demand the same.", err=True)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
