"""``casemate image push`` and ``pull``: sealed images in registries."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import click

from casemate.cli.progress import progress_bars
from casemate.encoding import decode_hex
from casemate.project.registries import RegistryAccess
from casemate.types import Sha384

_FILE = click.Path(dir_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
P = ParamSpec("P")
R = TypeVar("R")


def registry_access(
    command: Callable[Concatenate[RegistryAccess, P], R],
) -> Callable[..., R]:
    """Give a command the options by which registries are asked, as its first argument."""

    @click.option("--auth-file", type=_FILE, help="Credentials, as skopeo login writes them.")
    @click.option("--plain-http", is_flag=True, help="Without TLS, and without credentials.")
    @click.option("--ca-file", type=_FILE, help="Authorities of the registry's certificate, PEM.")
    @functools.wraps(command)
    def wrapped(
        auth_file: Path | None,
        plain_http: bool,
        ca_file: Path | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        access = RegistryAccess(auth_file=auth_file, plain_http=plain_http, ca_file=ca_file)
        return command(access, *args, **kwargs)

    return wrapped


@click.command(epilog="Example:  casemate image push model.sealed registry.example:5000/models/a:1")
@click.argument("image", type=_FILE)
@click.argument("reference")
@registry_access
@_json
def push(access: RegistryAccess, image: Path, reference: str, as_json: bool) -> None:
    """Put the sealed IMAGE into a registry as REFERENCE: HOST[:PORT]/NAME[:TAG].

    The registry sees ciphertext, its size and the image's id. What it has is not sent again.
    """
    from casemate.image import artifact
    from casemate.image.oci.reference import parse_reference

    wanted = parse_reference(reference)
    with progress_bars() as bar:
        digest, image_id = artifact.push(image, access.repository(wanted), wanted, bar("pushing"))
    _report(f"{wanted.host}/{wanted.name}@{digest}", image_id, image, as_json=as_json)


@click.command(epilog="Example:  casemate image pull registry.example/models/a:1 model.sealed")
@click.argument("reference")
@click.argument("image", type=_FILE)
@click.option("--id", "image_id", metavar="HEX", help="Which image it must be.")
@registry_access
@_json
def pull(
    access: RegistryAccess, reference: str, image: Path, image_id: str | None, as_json: bool
) -> None:
    """Get the sealed image REFERENCE from a registry, as the file IMAGE.

    After a cut the same command goes on where it ended. Nobody who opens the image relies on the
    registry: the launch contract pins the id.
    """
    from casemate.image import artifact
    from casemate.image.oci.reference import parse_reference

    wanted = parse_reference(reference)
    expected = Sha384(decode_hex(image_id, field="--id", length=48)) if image_id else None
    with progress_bars() as bar:
        digest, found = artifact.pull(
            access.repository(wanted), wanted, image, image_id=expected, progress=bar("pulling")
        )
    _report(f"{wanted.host}/{wanted.name}@{digest}", found, image, as_json=as_json)


def _report(reference: str, image_id: Sha384, image: Path, *, as_json: bool) -> None:
    report = {"image": str(image), "id": str(image_id), "reference": reference}
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, value in report.items():
        click.echo(f"{name + ':':<15}{value}")
