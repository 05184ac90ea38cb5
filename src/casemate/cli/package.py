"""``casemate package``: container images of broker, workload and client."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from casemate.cli.options import project_option
from casemate.image.oci.write import write_docker_archive
from casemate.project.build import Project
from casemate.project.package import Packaged, Part, package

_SCHEMES = ("oci", "docker-archive")


class _Output(click.ParamType[tuple[str, Path]]):
    """``oci:DIR`` or ``docker-archive:FILE``."""

    name = "output"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        scheme, colon, path = str(value).partition(":")
        if scheme not in _SCHEMES or not colon or not path:
            self.fail(f"{value!r} is neither oci:DIR nor docker-archive:FILE", param, ctx)
        return scheme, Path(path)


@click.command(epilog="Example:  casemate package --registry demo --tag 1.0 --output oci:images/")
@project_option
@click.option("-r", "--registry", default="demo", show_default=True, help="Names begin with it.")
@click.option("-g", "--tag", default="latest", show_default=True, help="Names end with it.")
@click.option(
    "--output", type=_Output(), metavar="oci:DIR | docker-archive:FILE",
    help="Where the images go.  [default: oci:.casemate/packages]",
)  # fmt: skip
@click.option("--broker-name", default=Part.BROKER.value, show_default=True)
@click.option("--workload-name", default=Part.WORKLOAD.value, show_default=True)
@click.option("--client-name", default=Part.CLIENT.value, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    project: Project,
    registry: str,
    tag: str,
    output: tuple[str, Path] | None,
    broker_name: str,
    workload_name: str,
    client_name: str,
    as_json: bool,
) -> None:
    """Write container images of the built project: broker, workload, client.

    They hold what bills of materials name, and no shell, package manager or secret. The same
    project gives the same digests. Secrets are mounted into the broker's container where it runs.
    """
    scheme, path = output or ("oci", project.folder / "packages")
    names = {
        Part.BROKER: broker_name, Part.WORKLOAD: workload_name, Part.CLIENT: client_name,
    }  # fmt: skip
    with ExitStack() as stack:
        layout = path
        if scheme == "docker-archive":
            scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".casemate-")
            layout = Path(stack.enter_context(scratch))
        packaged = write_packages(project, layout, registry=registry, tag=tag, names=names)
        if scheme == "docker-archive":
            write_docker_archive(path, layout, [each.reference for each in packaged])
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "reference": each.reference,
                        "digest": each.image.digest,
                        "size": each.image.size,
                    }
                    for each in packaged
                ]
            )
        )


def write_packages(
    project: Project, layout: Path, *, registry: str, tag: str, names: dict[Part, str]
) -> list[Packaged]:
    """Write the images, and say on stderr what comes of each."""
    packaged = []
    for each in package(project, layout, registry=registry, tag=tag, names=names):
        packaged.append(each)
        click.echo(
            f"{each.reference}: {each.image.size / 1e6:.0f} MB, {each.image.digest[:23]}…", err=True
        )
    return packaged
