"""``casemate verify``: is this evidence genuine, and acceptable?"""

from __future__ import annotations

import datetime
import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import click

from casemate.cli.options import TIME, collateral_options
from casemate.encoding import decode_hex
from casemate.errors.render import printable, render_error
from casemate.evidence import Tee
from casemate.evidence.detect import RATLS
from casemate.policy.constraint import show
from casemate.project.collateral import Place
from casemate.project.files import read_file, replace_public
from casemate.project.keys import read_key_hash
from casemate.project.results import issue_result
from casemate.project.verification import Expected, Outcome, Verification, as_one

_FILE = click.Path(dir_okay=False, path_type=Path)
KINDS = ["auto", *(tee.value for tee in Tee if tee is not Tee.IDENTITY_KEY), RATLS]


@click.command(
    epilog="Example:  casemate verify report.bin --endorsements vcek.pem "
    "--endorsements ask_ark_milan.pem"
)
@click.argument("evidence", type=_FILE, nargs=-1)
@click.option(
    "--server",
    metavar="HOST:PORT",
    help="Verify this server by its certificate, in place of EVIDENCE; it is sent nothing.",
)
@click.option(
    "--save",
    type=_FILE,
    help="With --server and --policy: write its certificate (PEM) for other programs to pin, if "
    "every policy accepts it.",
)
@click.option(
    "--max-age", type=click.FloatRange(0, min_open=True), metavar="DAYS",
    help="With --server: how long ago its certificate may have been made.",
)  # fmt: skip
@click.option(
    "--tee", type=click.Choice(KINDS), default="auto", show_default=True, help="What it is."
)
@click.option(
    "--endorsements", type=_FILE, multiple=True,
    help="Certificates, revocation lists, keys (PEM, DER, JWK, JWKS), OCSP responses, DCAP "
    "collateral (JSON), manifests (XML), bundles; may be given several times, in any order.",
)  # fmt: skip
@collateral_options
@click.option("--eventlog", type=_FILE, help="Hold this event log against the registers.")
@click.option("--nonce", metavar="HEX", help="What the evidence must have been made for.")
@click.option("--report-data", metavar="HEX", help="What it must bind; zeros may follow.")
@click.option(
    "--claims", type=_FILE,
    help="The claims buffer that it must bind, which casemate evidence writes beside it; --nonce "
    "is then looked for in there.",
)  # fmt: skip
@click.option(
    "--for-key", type=_FILE,
    help="The certificate or public key that it must be about: of an attested certificate, of "
    "--claims, or of an attestation result.",
)  # fmt: skip
@click.option("--at", type=TIME, help="The time at which all must be valid.  [default: now]")
@click.option("--policy", type=_FILE, help="Hold it against this policy document too.")
@click.option(
    "--verifier-key", type=_FILE, multiple=True,
    help="The public key of a verifier whose attestation results are trusted (--tee ear).",
)  # fmt: skip
@click.option(
    "--ear", type=_FILE, help="Write what came of it as a signed attestation result (EAR)."
)
@click.option("--ear-key", type=_FILE, help="The private key that signs it.")
@click.option("--ear-nonce", metavar="HEX", help="What whoever reads it asked with.")
@click.option(
    "--forecast-days", type=click.IntRange(0, 3650), default=30, show_default=True,
    help="Warn if what passes now won't any more within so many days. 0: don't look ahead.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    evidence: tuple[Path, ...],
    server: str | None,
    save: Path | None,
    max_age: float | None,
    tee: str,
    endorsements: tuple[Path, ...],
    bundle_key: tuple[Path, ...],
    place: Place,
    eventlog: Path | None,
    nonce: str | None,
    report_data: str | None,
    claims: Path | None,
    for_key: Path | None,
    at: datetime.datetime | None,
    policy: Path | None,
    verifier_key: tuple[Path, ...],
    ear: Path | None,
    ear_key: Path | None,
    ear_nonce: str | None,
    forecast_days: int,
    as_json: bool,
) -> int:
    """Verify EVIDENCE: a quote, report, document, token, or attested certificate; or a server.

    Genuine means that its signatures and chain hold under the vendor's pinned root at that time;
    acceptable, that a policy says yes to what it claims. Without --policy only the first is
    judged, and nothing should be released on that alone. Of several, each must be both.

    \b
    Exit codes: 0 genuine (and acceptable), 3 malformed, 4 not genuine, 5 not acceptable,
    6 can't be decided with these endorsements at that time.
    """
    if bool(evidence) is (server is not None):
        raise click.UsageError("give EVIDENCE, or --server")
    if server is None and (save is not None or max_age is not None):
        raise click.UsageError("--save and --max-age go with --server")
    if save is not None and policy is None:
        raise click.UsageError("--save goes with --policy: nothing else says whether to trust it")
    pieces = len(evidence) if server is None else 1
    if (ear is None) != (ear_key is None) or (ear is not None and pieces != 1):
        raise click.UsageError("--ear and --ear-key go together, with one EVIDENCE and --policy")
    verification = Verification.load(
        tee=RATLS if server is not None else None if tee == "auto" else tee,
        endorsements=(*endorsements, *verifier_key),
        bundle_keys=bundle_key,
        place=place,
        eventlog=eventlog,
        at=at or datetime.datetime.now(datetime.UTC),
        expected=Expected(
            report_data=decode_hex(report_data, field="--report-data") if report_data else None,
            nonce=decode_hex(nonce, field="--nonce") if nonce else None,
            claims=read_file(claims, field="--claims") if claims is not None else None,
            key=read_key_hash(for_key, field="--for-key") if for_key is not None else None,
            policy=policy,
            server=server is not None,
            max_age=datetime.timedelta(days=max_age) if max_age is not None else None,
        ),
    )
    ahead = datetime.timedelta(days=forecast_days)
    outcomes: dict[str, Outcome] = {}
    for name, data in _pieces(evidence, server):
        outcome = verification.foretell(data, verification.verify(data), within=ahead)
        outcomes[name] = outcome
        for each in outcome.forecast:
            click.echo(f"casemate verify: WARNING: {name}: {each.what}", err=True)
        if save is not None and outcome.acceptable:
            replace_public(save, ssl.DER_cert_to_PEM_cert(data).encode())
            click.echo(f"{save}: the certificate of {name}, to be pinned", err=True)
    if ear is not None and ear_key is not None:
        asked = decode_hex(ear_nonce, field="--ear-nonce") if ear_nonce else None
        issued = issue_result(
            next(iter(outcomes.values())), verification, key=ear_key, output=ear, nonce=asked
        )
        said = "says so, for five minutes" if issued else "not written, for nothing was decided"
        click.echo(f"{ear}: {said}", err=True)
    if as_json:
        click.echo(json.dumps(as_one(outcomes)))
    else:
        for name, outcome in outcomes.items():
            _print(outcome, name if len(outcomes) > 1 else None)
    errors = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
    return errors[0].exit_code if errors else 0


def _pieces(evidence: tuple[Path, ...], server: str | None) -> Iterator[tuple[str, bytes]]:
    """What is verified, with its name."""
    if server is not None:
        from casemate.client.fetch import SECONDS, fetch_certificate  # not for files

        yield server, fetch_certificate(server, timeout=SECONDS)
    for path in evidence:
        yield str(path), read_file(path, field="evidence")


def _print(outcome: Outcome, name: str | None) -> None:
    if name is not None:
        click.echo(f"{name}:")
    click.echo(f"{'evidence:':<25} {outcome.tee or 'unknown'}")
    for check in outcome.checks:
        click.echo(f"  {'held  ' if check.held else 'FAILED'} {check.name:<22} {check.purpose}")
    for name, value in outcome.claims.items():
        click.echo(f"{printable(name) + ':':<25} {printable(show(value))}")
    for number, gpu in enumerate(outcome.report.gpus if outcome.report is not None else ()):
        for name, value in gpu.claims.items():
            click.echo(f"{f'gpus[{number}].{name}:':<26}{printable(show(value))}")
    verdict = "genuine" if outcome.genuine else "NOT SHOWN TO BE GENUINE"
    if outcome.acceptable is not None:
        verdict += ", acceptable" if outcome.acceptable else ", NOT ACCEPTABLE to the policy"
    click.echo(f"{'verdict:':<25} {verdict}")
    if outcome.error is not None:
        click.echo(render_error(outcome.error, program="casemate verify"), err=True)
