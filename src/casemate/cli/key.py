"""``casemate key``: make and look at the keys of sealed images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from casemate.image.keys import encode_key_file, generate_key, key_fingerprint, read_key_file
from casemate.project.files import write_private

_SIZES = {"image": 32, "occlum": 16}
_PATH = click.Path(dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Make and look at key files.

    A key file is one line of pairs of hex digits joined by "-". Its content is also the secret
    that a broker releases.
    """


@command.command(epilog="Example:  casemate key new secrets/image_key")
@click.argument("file", type=_PATH)
@click.option(
    "--for",
    "kind",
    type=click.Choice(list(_SIZES)),
    default="image",
    show_default=True,
    help="image: 32 bytes. occlum: 16 bytes, as Occlum's tools take them.",
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def new(file: Path, kind: str, as_json: bool) -> None:
    """Make a new random key in FILE, which only you can read. Never overwrites one."""
    key = generate_key(_SIZES[kind])
    write_private(file, encode_key_file(key).reveal())
    report = {"file": str(file), "bytes": len(key), "fingerprint": key_fingerprint(key)}
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{file}: {len(key)} bytes, fingerprint {report['fingerprint']}", err=True)


@command.command(epilog="Example:  casemate key show secrets/image_key")
@click.argument("file", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def show(file: Path, as_json: bool) -> None:
    """Say what FILE holds, without the key itself.

    The fingerprint is made with a one-way function; equal fingerprints mean equal keys.
    """
    key = read_key_file(file)
    report = {
        "file": str(file),
        "kind": {size: kind for kind, size in _SIZES.items()}[len(key)],
        "bytes": len(key),
        "fingerprint": key_fingerprint(key),
    }
    if as_json:
        click.echo(json.dumps(report))
    else:
        for name, value in report.items():
            click.echo(f"{name + ':':<13}{value}")
