"""``casemate down``: stop what runs."""

from __future__ import annotations

import json

import click

from casemate.cli.options import project_option
from casemate.project.build import Project
from casemate.project.containers import stop_containers
from casemate.project.running import stop_project


@click.command(epilog="Example:  casemate down")
@project_option
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(project: Project, as_json: bool) -> None:
    """Stop the project's broker and workload, and wait until nothing of them is left."""
    stopped = stop_project(project) | stop_containers(project)
    if as_json:
        click.echo(json.dumps({"stopped": stopped}))
    else:
        click.echo("casemate down: stopped" if stopped else "casemate down: nothing runs", err=True)
