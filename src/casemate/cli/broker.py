"""``casemate broker``: hold secrets and release them to attested launchers."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import click

from casemate.broker import BrokerConfig, run_broker
from casemate.cli.options import ADDRESS, collateral_options, machine_tee_options
from casemate.errors import UsageError
from casemate.project.attesters import broker_attester, broker_place
from casemate.project.collateral import Place, knowledge


@click.command(
    epilog="Example:  casemate broker --policy policy.toml --secrets secrets/ "
    "--identity broker.key --audit audit.jsonl"
)
@click.option(
    "--policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="Who gets which secret: TOML (specs/release-policy.md).",
)
@click.option(
    "--secrets",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="A directory with a file a secret, or the reference's secret_config.json.",
)
@click.option(
    "--listen",
    type=ADDRESS,
    default="localhost:50051",
    show_default=True,
    metavar="HOST:PORT",
    help="Where launchers find it.",
)
@click.option(
    "--identity",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The identity key of a broker outside a TEE (casemate key new --for identity).",
)
@click.option(
    "--endorsements",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="What the vendors say of launchers' hardware: certificates, revocation lists, DCAP "
    "collateral, manifests, keys, bundles; may be given several times.",
)
@collateral_options
@machine_tee_options
@click.option(
    "--audit",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default="-",
    help="Append audit lines (JSON) to this file; - is stderr.  [default: -]",
)
@click.option(
    "--forecast-days", type=click.IntRange(0, 3650), default=30, show_default=True,
    help="Warn in the audit trail, at a release, if the launcher won't be accepted any more within "
    "so many days. 0: never.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Say on stdout, as JSON, when it is ready.")
def command(
    policy: Path,
    secrets: Path,
    listen: tuple[str, int],
    identity: Path | None,
    endorsements: tuple[Path, ...],
    bundle_key: tuple[Path, ...],
    place: Place,
    tee: str | None,
    tee_device: str | None,
    gpus: bool,
    development_root: Path | None,
    audit: Path,
    forecast_days: int,
    as_json: bool,
) -> None:
    """Hold secrets and release them to attested launchers.

    A broker proves who it is by its identity key, which launch contracts pin, or by evidence of
    the TEE that it runs in. It runs until SIGTERM or Ctrl-C.

    With --fetch it asks vendors' services about launchers' hardware, and keeps that current beside
    its work; with --offline it has what casemate collateral import put into the cache.
    """
    attester, pin = broker_attester(
        identity, tee, broker_place(tee_device, development_root, gpus=gpus)
    )

    def ready(host: str, port: int) -> None:
        click.echo(f"casemate broker: ready on {host}:{port}; {pin}", err=True)
        if as_json:
            click.echo(json.dumps({"event": "ready", "host": host, "port": port, "proves": pin}))
            sys.stdout.flush()

    with ExitStack() as stack:
        to_stderr = str(audit) == "-"
        stream = sys.stderr if to_stderr else stack.enter_context(_trail(audit))
        config = BrokerConfig(
            policy=policy,
            secrets=secrets,
            host=listen[0],
            port=listen[1],
            attester=attester,
            audit=stream,
            knowledge=stack.enter_context(knowledge(endorsements, bundle_key, place, warn=_warn)),
            forecast=datetime.timedelta(days=forecast_days),
        )
        run_broker(config, on_ready=ready)
    click.echo("casemate broker: stopped", err=True)


@contextmanager
def _trail(path: Path) -> Iterator[TextIO]:
    """The file of audit lines; those that couldn't be written are told of at the end."""
    with _about(path):
        stream = path.open("a", encoding="utf-8")
    try:
        yield stream
    finally:
        with _about(path):
            stream.close()


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            "broker.audit",
            f"audit lines can't be written to {path}",
            field="--audit",
            got=error.strerror or str(error),
            remedy="Name a file in a folder that may be written to and has room left.",
        ) from error


def _warn(text: str) -> None:
    click.echo(f"casemate broker: {text}", err=True)
