"""``casemate new``: a commented project file to start from."""

from __future__ import annotations

from pathlib import Path

import click

from casemate.project.files import write_public
from casemate.project.manifest import FILE_NAME
from casemate.project.templates import KINDS, project_file


@click.command(epilog="Example:  casemate new resnet --for onnx")
@click.argument("name")
@click.option(
    "--for", "kind", type=click.Choice(KINDS), default="onnx", show_default=True,
    help="What is to be served.",
)  # fmt: skip
@click.option(
    "--folder", type=click.Path(file_okay=False, path_type=Path), default=Path(),
    help="Where the file goes.  [default: this folder]",
)  # fmt: skip
def command(name: str, kind: str, folder: Path) -> None:
    """Write a commented casemate.toml for a service NAME. Never overwrites one."""
    path = folder / FILE_NAME
    write_public(path, project_file(kind, name).encode())
    click.echo(f"{path}: edit it, then: casemate build", err=True)
