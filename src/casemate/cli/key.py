"""``casemate key``: make and look at the keys of sealed images, and at brokers' identity keys."""

from __future__ import annotations

import json
from pathlib import Path

import click

from casemate.image.keys import encode_key_file, generate_key, key_fingerprint
from casemate.project.files import write_private, write_public
from casemate.project.keys import IMAGE_KEY_SIZES, describe_key_file, make_identity_key

_PATH = click.Path(dir_okay=False, path_type=Path)


@click.group()
def command() -> None:
    """Make and look at key files.

    An image key's file is one line of pairs of hex digits joined by "-". Its content is also the
    secret that a broker releases. An identity key is what a broker outside a TEE proves itself by.
    """


@command.command(epilog="Example:  casemate key new secrets/image_key")
@click.argument("file", type=_PATH)
@click.option(
    "--for",
    "kind",
    type=click.Choice([*IMAGE_KEY_SIZES, "identity"]),
    default="image",
    show_default=True,
    help="image: 32 bytes. occlum: 16 bytes, as Occlum's tools take them. identity: an Ed25519 "
    "key in PEM; its public key goes into FILE.pub.",
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def new(file: Path, kind: str, as_json: bool) -> None:
    """Make a new random key in FILE, which only you can read. Never overwrites one."""
    if kind == "identity":
        _new_identity(file, as_json=as_json)
        return
    key = generate_key(IMAGE_KEY_SIZES[kind])
    write_private(file, encode_key_file(key).reveal())
    report = {"file": str(file), "bytes": len(key), "fingerprint": key_fingerprint(key)}
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(f"{file}: {len(key)} bytes, fingerprint {report['fingerprint']}", err=True)


def _new_identity(file: Path, *, as_json: bool) -> None:
    private, public = make_identity_key()
    public_file = file.with_name(f"{file.name}.pub")
    write_private(file, private.reveal())
    write_public(public_file, public)
    fingerprint = describe_key_file(public_file)["fingerprint"]
    if as_json:
        report = {"file": str(file), "public": str(public_file), "fingerprint": fingerprint}
        click.echo(json.dumps(report))
    else:
        click.echo(f"{file}: identity key, fingerprint {fingerprint}", err=True)
        click.echo(f"{public_file}: its public key, for launch contracts", err=True)


@command.command(epilog="Example:  casemate key show secrets/image_key")
@click.argument("file", type=_PATH)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def show(file: Path, as_json: bool) -> None:
    """Say what FILE holds, without the key itself.

    The fingerprint is made with a one-way function; equal fingerprints mean equal keys.
    """
    report = describe_key_file(file)
    if as_json:
        click.echo(json.dumps(report))
    else:
        for name, value in report.items():
            click.echo(f"{name + ':':<13}{value}")
