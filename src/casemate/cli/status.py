"""``casemate status``: does it run, who attested, what was released, how old is the certificate?"""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from casemate.cli.options import project_option
from casemate.project.build import Project
from casemate.project.running import Status, describe


@click.command(epilog="Example:  casemate status")
@project_option
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(project: Project, as_json: bool) -> None:
    """Say whether the project runs, who attested and what was released, and what is built."""
    status = describe(project)
    if as_json:
        click.echo(json.dumps(asdict(status)))
        return
    _print(status)


def _print(status: Status) -> None:
    state = "serves" if status.ready else "starts" if status.running else "doesn't run"
    rows = [
        (
            "service",
            f"{status.name}: {state}" + (f", since {status.since}" if status.since else ""),
        ),
        ("broker", status.broker),
        ("workload", f"port {status.port}"),
        ("contract", status.contract or "not built"),
        *(("image", f"{name}  {digest[:32]}…") for name, digest in status.images.items()),
    ]
    if status.certificate_ends is not None:
        rows.append(
            ("certificate", f"{status.certificate_days} days left ({status.certificate_ends})")
        )
    for title, text in rows:
        click.echo(f"{title + ':':<13}{text}")
    for each in status.released:
        click.echo(
            f"{'released:':<13}{each['time']}  {each['tee']} at {each['peer']}  {each['secrets']}"
        )
    for each in status.refused:
        click.echo(
            f"{'REFUSED:':<13}{each['time']}  {each['tee']} at {each['peer']}  "
            f"{each['why']} [{each['code']}]"
        )
