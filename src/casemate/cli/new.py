"""``casemate new``: a commented project file to start from."""

from __future__ import annotations

from pathlib import Path

import click

from casemate.project.files import write_public
from casemate.project.manifest import FILE_NAME, TlsIdentityFrom
from casemate.project.templates import KINDS, project_file


@click.command(epilog="Example:  casemate new resnet --for onnx")
@click.argument("name")
@click.option(
    "--for", "kind", type=click.Choice(KINDS), default="onnx", show_default=True,
    help="What is to be served.",
)  # fmt: skip
@click.option(
    "--tls", type=click.Choice([each.value for each in TlsIdentityFrom]),
    default=TlsIdentityFrom.SECRET.value, show_default=True,
    help="Who makes the server's key and certificate: secret, the build; attested, the launcher in "
    "the TEE, and clients verify it (casemate predict --policy).",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), default=Path(),
    help="Where the file goes.  [default: this folder]",
)  # fmt: skip
def command(name: str, kind: str, tls: str, folder: Path) -> None:
    """Write a commented casemate.toml for a service NAME. Never overwrites one."""
    path = folder / FILE_NAME
    attested = tls == TlsIdentityFrom.ATTESTED
    write_public(path, project_file(kind, name, attested=attested).encode())
    click.echo(f"{path}: edit it, then: casemate build", err=True)
