"""``casemate contract``: write down what a launcher may start."""

from __future__ import annotations

import json
from pathlib import Path

import click

from casemate.project.contracts import build_contract, read_contract_file
from casemate.project.files import replace_public
from casemate.protocol.contract import LaunchContract
from casemate.protocol.contract_certificate import CertificatePlacement

_FILE = click.Path(dir_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")


@click.group()
def command() -> None:
    """Write down what a launcher may start: command line, environment, images, secrets, broker.

    The launcher's evidence binds the contract's digest, so a policy that names the digest releases
    secrets for exactly this.
    """


@command.command(epilog="Example:  casemate contract build launch.toml launch.cbor")
@click.argument("source", type=_FILE)
@click.argument("output", type=_FILE)
@_json
def build(source: Path, output: Path, as_json: bool) -> None:
    """Build the contract OUTPUT from SOURCE, TOML (specs/launch-contract.md).

    The files that SOURCE names, images and the broker's public key, are looked up from its own
    folder.
    """
    contract = build_contract(source)
    replace_public(output, contract.encode())
    if as_json:
        click.echo(json.dumps({"contract": str(output), "digest": str(contract.digest())}))
    else:
        click.echo(f"{output}: digest {contract.digest()}", err=True)


@command.command(epilog="Example:  casemate contract show launch.cbor")
@click.argument("contract", type=_FILE)
@_json
def show(contract: Path, as_json: bool) -> None:
    """Say what CONTRACT lets a launcher do."""
    parsed = read_contract_file(contract)
    if as_json:
        click.echo(json.dumps(_as_json(parsed)))
        return
    for name, value in _lines(parsed):
        click.echo(f"{name + ':' if name else '':<13}{value}")


@command.command(epilog="Example:  casemate contract digest launch.cbor")
@click.argument("contract", type=_FILE)
def digest(contract: Path) -> None:
    """Print the digest of CONTRACT, as policies name it."""
    click.echo(str(read_contract_file(contract).digest()))


def _lines(contract: LaunchContract) -> list[tuple[str, str]]:
    broker = contract.broker
    known = f"identity key {broker.key.hex()}" if broker.key is not None else "a policy"
    return [
        ("digest", str(contract.digest())),
        ("command", contract.argv[0]),
        *(("", argument) for argument in contract.argv[1:]),
        *(("environment", f"{name}={value}") for name, value in contract.environment.items()),
        *(
            ("host may set", f"{name}, matching {pattern}")
            for name, pattern in contract.host_environment.items()
        ),
        ("runs in", contract.working_directory),
        ("runs as", f"user {contract.uid}, group {contract.gid}"),
        *(
            ("image", f"{image.mount}  {image.name}  key {image.key}  id {image.id}")
            for image in contract.images
        ),
        *(("secret", f"{s.path}  {s.name}  mode {s.mode:04o}") for s in contract.secrets),
        ("broker", f"{broker.address}, known by {known}"),
        ("TLS", contract.tls.value),
        *_certificate_lines(contract.certificate),
    ]


def _certificate_lines(minted: CertificatePlacement | None) -> list[tuple[str, str]]:
    if minted is None:
        return []
    return [
        ("certificate", f"for {', '.join(minted.names)}, {minted.days} days, in the form "
         f"{minted.form}"),
        *(("", f"{path}  mode {minted.mode:04o}") for path in minted.files),
    ]  # fmt: skip


def _as_json(contract: LaunchContract) -> dict[str, object]:
    return {
        "digest": str(contract.digest()),
        "argv": list(contract.argv),
        "environment": dict(contract.environment),
        "host-environment": dict(contract.host_environment),
        "working-directory": contract.working_directory,
        "uid": contract.uid,
        "gid": contract.gid,
        "images": [
            {"name": i.name, "id": str(i.id), "key": i.key, "mount": i.mount}
            for i in contract.images
        ],
        "secrets": [
            {"name": s.name, "path": s.path, "mode": f"{s.mode:04o}"} for s in contract.secrets
        ],
        "broker": {
            "address": contract.broker.address,
            "key": contract.broker.key.hex() if contract.broker.key is not None else None,
            "policy": contract.broker.policy,
        },
        "tls": contract.tls.value,
        "certificate": None if contract.certificate is None else {
            **contract.certificate.as_map(), "mode": f"{contract.certificate.mode:04o}"
        },
    }  # fmt: skip
