"""``casemate deploy``: what Kubernetes is given."""

from __future__ import annotations

import json
from pathlib import Path

import click

from casemate.cli.options import project_option
from casemate.project.build import Project
from casemate.project.deploy import write_deployment
from casemate.project.package import Part

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(epilog="Example:  casemate deploy --registry registry.example/demo --tag 1.0")
@project_option
@click.option("-r", "--registry", default="demo", show_default=True, help="Images' names.")
@click.option("-g", "--tag", default="latest", show_default=True, help="Images' tag.")
@click.option(
    "--packages", type=_FOLDER,
    help="The folder of casemate package --output oci:DIR: pins the images by digest.",
)  # fmt: skip
@click.option(
    "--output", type=_FOLDER, default=Path("deployment"), show_default=True,
    help="Where the files go.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    project: Project,
    registry: str,
    tag: str,
    packages: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Write what Kubernetes is given: values.yaml for the Helm chart, secrets.yaml for kubectl.

    The project must be built for the cluster, whose launchers find the broker by a Service's name:
    casemate build --server casemate-broker. secrets.yaml holds the broker's secrets in the clear;
    give it to the cluster that you trust with them, and to nobody else.
    """
    names = (Part.BROKER.value, Part.WORKLOAD.value, Part.CLIENT.value)
    values, secrets = write_deployment(
        project, output, registry=registry, tag=tag, names=names, layout=packages
    )
    if as_json:
        click.echo(json.dumps({"values": str(values), "secrets": str(secrets)}))
        return
    click.echo(f"{values}: helm install NAME deploy/helm/casemate --values {values}", err=True)
    click.echo(f"{secrets}: kubectl apply --filename {secrets}   (SECRET)", err=True)
