"""``casemate verify``: is this evidence genuine, and acceptable?"""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import click

from casemate.encoding import decode_hex
from casemate.errors.render import render_error
from casemate.evidence import Tee
from casemate.evidence.detect import RATLS
from casemate.policy.constraint import show
from casemate.project.verification import Expected, Outcome, verify_file

_FILE = click.Path(dir_okay=False, path_type=Path)
_KINDS = ["auto", *(tee.value for tee in Tee if tee is not Tee.IDENTITY_KEY), RATLS]


class _Time(click.ParamType[datetime.datetime]):
    """A time with its zone, RFC 3339."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime.datetime:
        try:
            moment = datetime.datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is not a time such as 2026-11-23T12:00:00Z", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} has no zone; end it with Z for UTC", param, ctx)
        return moment


@click.command(
    epilog="Example:  casemate verify report.bin --endorsements vcek.pem "
    "--endorsements ask_ark_milan.pem"
)
@click.argument("evidence", type=_FILE)
@click.option(
    "--tee", type=click.Choice(_KINDS), default="auto", show_default=True, help="What it is."
)
@click.option(
    "--endorsements", type=_FILE, multiple=True,
    help="Certificates, revocation lists, keys (PEM, DER, JWK), DCAP collateral (JSON), manifests "
    "(XML); may be given several times, in any order.",
)  # fmt: skip
@click.option("--eventlog", type=_FILE, help="Hold this event log against the registers.")
@click.option("--nonce", metavar="HEX", help="What the evidence must have been made for.")
@click.option("--report-data", metavar="HEX", help="What it must bind; zeros may follow.")
@click.option("--at", type=_Time(), help="The time at which all must be valid.  [default: now]")
@click.option("--policy", type=_FILE, help="Hold it against this policy document too.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    evidence: Path,
    tee: str,
    endorsements: tuple[Path, ...],
    eventlog: Path | None,
    nonce: str | None,
    report_data: str | None,
    at: datetime.datetime | None,
    policy: Path | None,
    as_json: bool,
) -> int:
    """Verify EVIDENCE: a quote, report, document, token, or attested certificate.

    Genuine means that its signatures and chain hold under the vendor's pinned root at that time;
    acceptable, that a policy says yes to what it claims. Without --policy only the first is
    judged, and nothing should be released on that alone.

    \b
    Exit codes: 0 genuine (and acceptable), 3 malformed, 4 not genuine, 5 not acceptable,
    6 can't be decided with these endorsements at that time.
    """
    outcome = verify_file(
        evidence,
        tee=None if tee == "auto" else tee,
        endorsements=endorsements,
        eventlog=eventlog,
        at=at or datetime.datetime.now(datetime.UTC),
        expected=Expected(
            report_data=decode_hex(report_data, field="--report-data") if report_data else None,
            nonce=decode_hex(nonce, field="--nonce") if nonce else None,
            policy=policy,
        ),
    )
    if as_json:
        click.echo(json.dumps(outcome.as_dict()))
    else:
        _print(outcome)
    return outcome.error.exit_code if outcome.error is not None else 0


def _print(outcome: Outcome) -> None:
    click.echo(f"{'evidence:':<26}{outcome.tee or 'unknown'}")
    for check in outcome.checks:
        click.echo(f"  {'held  ' if check.held else 'FAILED'} {check.name:<22} {check.purpose}")
    for name, value in outcome.claims.items():
        click.echo(f"{name + ':':<26}{show(value)}")
    verdict = "genuine" if outcome.genuine else "NOT SHOWN TO BE GENUINE"
    if outcome.acceptable is not None:
        verdict += ", acceptable" if outcome.acceptable else ", NOT ACCEPTABLE to the policy"
    click.echo(f"{'verdict:':<26}{verdict}")
    if outcome.error is not None:
        click.echo(render_error(outcome.error, program="casemate verify"), err=True)
