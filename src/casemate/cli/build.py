"""``casemate build``: from casemate.toml to sealed images, contract and policy."""

from __future__ import annotations

import datetime
import json

import click

from casemate.cli.options import project_option
from casemate.cli.progress import progress_bars
from casemate.errors.render import printable
from casemate.project.build import Project, build_contract_and_policy, build_images
from casemate.project.programs import terminated_like_interrupted


@click.command(epilog="Example:  casemate build")
@project_option
@click.option("-s", "--server", metavar="HOST", help="Where launchers find the broker instead.")
@click.option("-p", "--port", type=click.IntRange(1, 65535), help="Its port instead.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(project: Project, server: str | None, port: int | None, as_json: bool) -> None:
    """Seal the project's images, make its keys, and write its launch contract and release policy.

    What is built lies in .casemate/ beside casemate.toml. Keys are made once; the same sources
    under the same keys give the same images.
    """
    with terminated_like_interrupted():  # what was begun is removed
        report = build(project.at(server=server, port=port))
    if as_json:
        click.echo(json.dumps(report))


def build(project: Project) -> dict[str, object]:
    """Build a project, and say on stderr what comes of it."""
    images = {}
    with progress_bars() as bar:
        for info in build_images(
            project,
            bar,
            lambda warning: click.echo(f"casemate: warning: {printable(warning)}", err=True),
        ):
            name = info.path.stem
            images[name] = info.id
            click.echo(
                f"{info.path.name}: {info.entries} files and folders, "
                f"{info.file_size / 1e6:.0f} MB, id {str(info.id)[:16]}…",
                err=True,
            )
    contract = build_contract_and_policy(project, images, now=datetime.datetime.now(datetime.UTC))
    digest = str(contract.digest())
    click.echo(f"{project.contract.name}: digest {digest[:16]}…", err=True)
    click.echo(f"{project.policy.name}: releases {', '.join(contract.secret_names)}", err=True)
    if contract.certificate is not None:
        click.echo(f"{project.policy.name}: clients verify the server under it", err=True)
    if project.certificate.exists():
        click.echo(f"{project.certificate.name}: for clients", err=True)
    return {
        "folder": str(project.folder),
        "images": {name: str(each) for name, each in images.items()},
        "contract": digest,
        "secrets": list(contract.secret_names),
    }
