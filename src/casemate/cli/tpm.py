"""``casemate tpm``: come to trust a TPM's attestation key."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click

from casemate.cli.options import TIME
from casemate.encoding import decode_hex
from casemate.project.enrolling import (
    write_answer,
    write_challenge,
    write_identity,
    write_record,
)
from casemate.types import Sha256

_FILE = click.Path(dir_okay=False, path_type=Path)
_device = click.option(
    "--tee-device", metavar="PLACE",
    help="Where the TPM is, if not at its usual place: a node, a socket, HOST:PORT.",
)  # fmt: skip


@click.group()
def command() -> None:
    """Come to trust a TPM's attestation key, by its maker's word.

    \b
    1. On the machine:  casemate tpm identity identity.json
    2. The owner:       casemate tpm challenge identity.json challenge.json kept.json
    3. On the machine:  casemate tpm answer challenge.json answer.json
    4. The owner:       casemate tpm record kept.json answer.json tpm.record

    The record goes to whoever judges: casemate broker --endorsements tpm.record. Policies name the
    maker (ek_root) or the TPM (ek).
    """


@command.command(epilog="Example:  casemate tpm identity identity.json")
@click.argument("output", type=_FILE)
@_device
def identity(output: Path, tee_device: str | None) -> None:
    """On the machine: say which keys its TPM has."""
    key = write_identity(tee_device, output)
    click.echo(f"{output}: attestation key {key}", err=True)


@command.command(
    epilog="Example:  casemate tpm challenge identity.json challenge.json kept.json "
    "--certificate maker.pem"
)
@click.argument("identity", type=_FILE)
@click.argument("challenge", type=_FILE)
@click.argument("kept", type=_FILE)
@click.option(
    "--certificate", "certificates", type=_FILE, multiple=True,
    help="The TPM maker's certificates, up to its root; may be given several times.",
)  # fmt: skip
def challenge(identity: Path, challenge: Path, kept: Path, certificates: tuple[Path, ...]) -> None:
    """The owner: make CHALLENGE for the machine, and keep in KEPT what its answer must be."""
    write_challenge(identity, challenge, kept, certificates=certificates)
    click.echo(f"{challenge}: for the machine; {kept}: for you alone", err=True)


@command.command(epilog="Example:  casemate tpm answer challenge.json answer.json")
@click.argument("challenge", type=_FILE)
@click.argument("output", type=_FILE)
@_device
def answer(challenge: Path, output: Path, tee_device: str | None) -> None:
    """On the machine: have its TPM answer CHALLENGE."""
    write_answer(tee_device, challenge, output)
    click.echo(f"{output}: the TPM opened it", err=True)


@command.command(epilog="Example:  casemate tpm record kept.json answer.json tpm.record")
@click.argument("kept", type=_FILE)
@click.argument("answer", type=_FILE)
@click.argument("output", type=_FILE)
@click.option(
    "--root", "roots", metavar="HEX", multiple=True,
    help="SHA-256 of a maker's root certificate that is trusted.  [default: any; the policy says]",
)  # fmt: skip
@click.option("--at", type=TIME, help="The time at which the chain must be valid.  [default: now]")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def record(
    kept: Path,
    answer: Path,
    output: Path,
    roots: tuple[str, ...],
    at: datetime.datetime | None,
    as_json: bool,
) -> None:
    """The owner: judge ANSWER, and record whose the attestation key is."""
    trusted = [Sha256(decode_hex(root, field="--root", length=32)) for root in roots]
    key = write_record(
        kept, answer, output, at=at or datetime.datetime.now(datetime.UTC), roots=trusted
    )
    if as_json:
        click.echo(
            json.dumps({"record": str(output), "ek": str(key.ek), "ek_root": str(key.ek_root)})
        )
    else:
        click.echo(f"{output}: ek {key.ek}, ek_root {key.ek_root}", err=True)
