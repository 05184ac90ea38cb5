"""``casemate up``: build, then run broker and workload."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from casemate.cli.build import build
from casemate.cli.options import project_option
from casemate.cli.package import write_packages
from casemate.project.build import Project
from casemate.project.containers import ENGINES, find_engine, start_containers
from casemate.project.programs import casemate_command
from casemate.project.running import RunState, run_project, start_detached


@click.command(epilog="Example:  casemate up --detach")
@project_option
@click.option("-s", "--server", metavar="HOST", help="Where launchers find the broker instead.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Its port instead.")
@click.option(
    "-u", "--pccs-url", metavar="URL",
    help="Have the broker ask this PCCS about Intel's platforms.",
)  # fmt: skip
@click.option("-d", "--detach", is_flag=True, help="Return when the workload serves; go on.")
@click.option(
    "--containers", is_flag=True,
    help="Run container images with podman or docker; they go on in the background.",
)  # fmt: skip
@click.option("--engine", type=click.Choice(ENGINES), help="Which of the two.")
@click.option("-r", "--registry", default="demo", show_default=True, help="Images' names.")
@click.option("-g", "--tag", default="latest", show_default=True, help="Images' tag.")
@click.option(
    "--memory", default="2g", show_default=True, help="What a container may decrypt into."
)
@click.option("--no-build", is_flag=True, help="Run what was built before.")
@click.option(
    "--dangerously-allow-disk", "allow_disk", is_flag=True,
    help="INSECURE: let decrypted files reach a disk, or unencrypted swap.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Say on stdout, as JSON, when it serves.")
def command(
    project: Project,
    server: str | None,
    port: int | None,
    pccs_url: str | None,
    detach: bool,
    containers: bool,
    engine: str | None,
    registry: str,
    tag: str,
    memory: str,
    no_build: bool,
    allow_disk: bool,
    as_json: bool,
) -> None:
    """Build the project, then run its broker and its workload on this machine.

    As processes, it stays until Ctrl-C, SIGTERM or casemate down, or until one of the two ends;
    the other is then stopped too.
    """
    project = project.at(server=server, port=port)
    broker_options = ("--fetch", "--pccs", pccs_url) if pccs_url else ()
    if not no_build:
        build(project)
    if containers:
        layout = project.folder / "packages"
        start_containers(
            project,
            write_packages(project, layout, registry=registry, tag=tag, names={}),
            layout,
            engine=find_engine(engine),
            memory=memory,
            broker_options=broker_options,
            say=lambda text: click.echo(f"casemate up: {text}", err=True),
        )
        if as_json:
            click.echo(json.dumps({"event": "ready", "port": project.manifest.workload.port}))
        click.echo("casemate up: goes on in the background; casemate down stops it", err=True)
        return
    if detach:
        host, number = project.manifest.broker
        state = start_detached(
            project,
            casemate_command(
                "up", "--no-build", "--project", str(project.base), "-s", host, "-p", str(number),
                *(["--dangerously-allow-disk"] if allow_disk else []),
                *(["--pccs-url", pccs_url] if pccs_url else []),
            ),
        )  # fmt: skip
        _tell(state, as_json)
        click.echo("casemate up: goes on in the background; casemate down stops it", err=True)
        return
    run_project(
        project,
        launch_options=("--dangerously-allow-disk",) if allow_disk else (),
        broker_options=broker_options,
        say=lambda text: click.echo(f"casemate up: {text}", err=True),
        on_ready=lambda state: _tell(state, as_json),
    )


def _tell(state: RunState, as_json: bool) -> None:
    click.echo(f"casemate up: the workload serves on port {state.port}", err=True)
    if as_json:
        click.echo(json.dumps({"event": "ready", **asdict(state)}))
        sys.stdout.flush()
