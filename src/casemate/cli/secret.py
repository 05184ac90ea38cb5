"""``casemate secret``: make secrets in the form that a workload reads."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click

from casemate.project.files import write_private, write_public
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config


@click.group()
def command() -> None:
    """Make secrets in the form that a workload reads."""


@command.command(
    epilog="Example:  casemate secret tls --for tensorflow-serving --host localhost secrets/"
)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--for",
    "workload",
    type=click.Choice(["tensorflow-serving", "pem"]),
    default="tensorflow-serving",
    show_default=True,
    help="tensorflow-serving: one secret, ssl_config. pem: two, tls_key and tls_certificate.",
)
@click.option(
    "--host", "hosts", multiple=True, default=("localhost",), show_default=True,
    help="DNS name or IP address that clients use; may be given several times.",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, 825), default=90, show_default=True,
    help="How long the certificate is good.",
)  # fmt: skip
@click.option(
    "--crt",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("server.crt"),
    show_default=True,
    help="Where the certificate for clients goes.",
)
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def tls(
    folder: Path, workload: str, hosts: tuple[str, ...], days: int, crt: Path, as_json: bool
) -> None:
    """Make a TLS key and certificate for a workload, as secrets in FOLDER.

    The key is an ECDSA P-256 key; the certificate is self-signed, for clients to pin. The secrets
    go into FOLDER for the broker; the certificate goes to your users.
    """
    identity = make_tls_identity(hosts, now=datetime.datetime.now(datetime.UTC), days=days)
    if workload == "tensorflow-serving":
        secrets = {"ssl_config": tensorflow_serving_ssl_config(identity).reveal()}
    else:
        secrets = {
            "tls_key": identity.private_key.reveal(),
            "tls_certificate": identity.certificate,
        }
    for name, value in secrets.items():
        write_private(folder / name, value)
    write_public(crt, identity.certificate)
    if as_json:
        click.echo(json.dumps({"secrets": sorted(secrets), "folder": str(folder), "crt": str(crt)}))
    else:
        click.echo(
            f"Secrets {', '.join(sorted(secrets))} in {folder}; for clients: {crt}", err=True
        )
