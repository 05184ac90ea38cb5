"""``casemate policy``: write down who gets which secret."""

from __future__ import annotations

import json
from pathlib import Path

import click

from casemate.cli.options import tee_options
from casemate.policy import PolicyDocument
from casemate.policy.constraint import describe
from casemate.project.contracts import read_contract_file
from casemate.project.files import read_text, write_public
from casemate.project.policies import policy_for_launcher
from casemate.tee.simulated import DevelopmentRoot, development_root_path, measure_launcher

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Write down who gets which secret (specs/release-policy.md)."""


@command.command(epilog="Example:  casemate policy new launch.cbor policy.toml --tee simulated")
@click.argument("contract", type=_FILE)
@click.argument("output", type=_FILE)
@tee_options
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def new(
    contract: Path, output: Path, tee: str | None, development_root: Path | None, as_json: bool
) -> None:
    """Write the policy OUTPUT for the launcher in this installation and for CONTRACT.

    It releases the contract's secrets to the code that is installed here, launching exactly this
    contract. Never overwrites a file: you may have edited it.
    """
    if tee is None:
        raise click.UsageError("Say on which TEE the launcher will run: --tee simulated")
    root = DevelopmentRoot.load_or_create(development_root or development_root_path())
    measurement = measure_launcher()
    document = policy_for_launcher(read_contract_file(contract), root=root, measurement=measurement)
    write_public(output, document.render().encode())
    if as_json:
        report = {
            "policy": str(output),
            "measurement": str(measurement),
            "secrets": sorted(document.secrets),
        }
        click.echo(json.dumps(report))
    else:
        click.echo(f"{output}: releases {', '.join(sorted(document.secrets))}", err=True)


@command.command(epilog="Example:  casemate policy show policy.toml")
@click.argument("policy", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def show(policy: Path, as_json: bool) -> None:
    """Check POLICY and say what it demands for each secret."""
    document = PolicyDocument.parse(read_text(policy, field="policy"))
    alternatives = {
        name: [
            {"tee": each.tee.value}
            | {field.name: describe(field, constraint) for field, constraint in each.fields()}
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
