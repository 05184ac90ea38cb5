"""``casemate package``: container images of broker, workload and client."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from casemate.cli.image_registry import registry_access
from casemate.cli.options import project_option
from casemate.cli.progress import progress_bars
from casemate.image.oci.ocicrypt import Key, read_key
from casemate.image.oci.write import write_docker_archive
from casemate.project.build import Project
from casemate.project.files import replace_public
from casemate.project.package import Packaged, Part, package
from casemate.project.programs import terminated_like_interrupted
from casemate.project.registries import RegistryAccess

_SCHEMES = ("oci", "docker-archive")
_FILE = click.Path(dir_okay=False, path_type=Path)


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


@click.command(
    epilog="""\b
Examples:
  casemate package --registry demo --tag 1.0 --output oci:images/
  casemate package --registry registry.example/demo --tag 1.0 --push \\
    --sign "cosign sign --yes --key cosign.key"
"""
)
@project_option
@click.option("-r", "--registry", default="demo", show_default=True, help="Names begin with it.")
@click.option("-g", "--tag", default="latest", show_default=True, help="Names end with it.")
@click.option(
    "--output", type=_Output(), metavar="oci:DIR | docker-archive:FILE",
    help="Where the images go.  [default: oci:.casemate/packages]",
)  # fmt: skip
@click.option("--push", is_flag=True, help="Put them into the registry, with bills of software.")
@click.option("--sign", metavar="COMMAND", help="Run COMMAND with each pushed image's digest.")
@click.option(
    "--encrypt", "recipients", type=_FILE, multiple=True,
    help="Public key (PEM) of a guest that may decrypt the layers (ocicrypt). May be given "
    "several times.",
)  # fmt: skip
@click.option(
    "--broker-name", default=Part.BROKER.value, show_default=True,
    help="The name of the broker's image.",
)  # fmt: skip
@click.option(
    "--workload-name", default=Part.WORKLOAD.value, show_default=True,
    help="The name of the workload's image.",
)  # fmt: skip
@click.option(
    "--client-name", default=Part.CLIENT.value, show_default=True,
    help="The name of the client's image.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
@registry_access
def command(
    access: RegistryAccess,
    project: Project,
    registry: str,
    tag: str,
    output: tuple[str, Path] | None,
    push: bool,
    sign: str | None,
    recipients: tuple[Path, ...],
    broker_name: str,
    workload_name: str,
    client_name: str,
    as_json: bool,
) -> None:
    """Write container images of the built project: broker, workload, client.

    They hold what bills of materials name, and no shell, package manager or secret. The same
    project gives the same digests. Secrets are mounted into the broker's container where it runs.
    Each image's bill of software (CycloneDX) goes to .casemate/software/.
    """
    if sign and not push:
        raise click.UsageError("--sign needs --push: what is signed is in a registry")
    scheme, path = output or ("oci", project.folder / "packages")
    names = {
        Part.BROKER: broker_name, Part.WORKLOAD: workload_name, Part.CLIENT: client_name,
    }  # fmt: skip
    keys = tuple(read_key(each, private=False) for each in recipients)
    with ExitStack() as stack:
        stack.enter_context(terminated_like_interrupted())  # what was begun is removed
        layout = path
        if scheme == "docker-archive":
            scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".casemate-")
            layout = Path(stack.enter_context(scratch))
        packaged = write_packages(
            project, layout, registry=registry, tag=tag, names=names, recipients=keys
        )
        software = _write_software(project, packaged)
        if scheme == "docker-archive":
            write_docker_archive(path, layout, [each.reference for each in packaged])
        pushed = _push(layout, packaged, software, access, sign) if push else {}
    if as_json:
        click.echo(json.dumps([_report(each, pushed.get(each.part)) for each in packaged]))


def write_packages(
    project: Project,
    layout: Path,
    *,
    registry: str,
    tag: str,
    names: dict[Part, str],
    recipients: tuple[Key, ...] = (),
) -> list[Packaged]:
    """Write the images, and say on stderr what comes of each."""
    packaged = []
    for each in package(
        project, layout, registry=registry, tag=tag, names=names, recipients=recipients
    ):
        packaged.append(each)
        click.echo(
            f"{each.reference}: {each.image.size / 1e6:.0f} MB, {each.image.digest[:23]}…", err=True
        )
    return packaged


def _write_software(project: Project, packaged: list[Packaged]) -> dict[Part, bytes]:
    from casemate.project.sbom import software_of  # its library isn't the broker's

    found = {}
    for each in packaged:
        found[each.part] = software_of(each)
        replace_public(project.folder / "software" / f"{each.part}.cdx.json", found[each.part])
    return found


def _push(
    layout: Path,
    packaged: list[Packaged],
    software: dict[Part, bytes],
    access: RegistryAccess,
    sign: str | None,
) -> dict[Part, str]:
    from casemate.project import publish

    pushed = {}
    for each in packaged:
        with progress_bars() as bar:
            pushed[each.part] = publish.publish(
                layout, each, access, software=software[each.part], progress=bar
            )
        click.echo(f"pushed {pushed[each.part]}", err=True)
        if sign:
            publish.sign(sign, pushed[each.part], os.environ)
            click.echo(f"signed {pushed[each.part]}", err=True)
    return pushed


def _report(packaged: Packaged, pushed: str | None) -> dict[str, str | int]:
    report: dict[str, str | int] = {
        "reference": packaged.reference,
        "digest": packaged.image.digest,
        "size": packaged.image.size,
    }
    return {**report, "pushed": pushed} if pushed else report
