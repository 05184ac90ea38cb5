"""``casemate evidence``: which TEE is this, and what does it say?"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import click

from casemate.cli.options import machine_tee_options
from casemate.encoding import decode_hex
from casemate.project.obtaining import Obtained, obtain
from casemate.tee.platform import AUTO, SIMULATED, TPM, Place, Seen, look
from casemate.tee.simulated import measure_launcher
from casemate.types import Nonce

_FILE = click.Path(dir_okay=False, path_type=Path)
_WORDS = {
    SIMULATED: "the simulated TEE protects nothing: its key lies on this machine",
    TPM: "a bare TPM proves which machine is in which state; it keeps nobody out of its memory",
}


@click.command(
    epilog="Example:  casemate evidence --nonce $(openssl rand -hex 32) --output evidence.bin"
)
@machine_tee_options
@click.option("--list", "only_list", is_flag=True, help="Look for every TEE; attest nothing.")
@click.option("--nonce", metavar="HEX", help="A relying party's challenge: 32 bytes.")
@click.option(
    "--public-key", type=_FILE,
    help="A key to vouch for, PEM or DER.  [default: one that is made and forgotten]",
)  # fmt: skip
@click.option(
    "--output", type=_FILE,
    help="Write the evidence to this file; claims, certificates and event log beside it.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
def command(
    tee: str | None,
    tee_device: str | None,
    gpus: bool,
    development_root: Path | None,
    only_list: bool,
    nonce: str | None,
    public_key: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Find this machine's TEE, say why it isn't any of the others, and obtain evidence of it.

    The evidence binds a claims buffer that is made here: a key's hash and, with --nonce, the
    challenge. Its report data is the buffer's SHA-256, then zeros. Without --output the evidence
    stands on stdout, in base64.

    There is no way to choose the report data itself: whoever could would have this machine vouch
    for a key of their own.
    """
    place = Place(
        device=tee_device, development_root=development_root, measure=measure_launcher, gpus=gpus
    )
    name = tee or AUTO
    seen = look(place) if only_list or (name == AUTO and tee_device is None) else ()
    for each in seen:
        click.echo(f"{each.name + ':':<13}{'found, ' if each.found else ''}{each.why}", err=True)
    if only_list:
        if as_json:
            click.echo(json.dumps({"tees": [_seen(each) for each in seen]}))
        return
    challenge = None if nonce is None else Nonce(decode_hex(nonce, field="--nonce", length=32))
    obtained = obtain(name, place, nonce=challenge, public_key=public_key)
    if obtained.tee in _WORDS:
        click.echo(f"casemate evidence: {_WORDS[obtained.tee]}", err=True)
    files = obtained.write(output) if output is not None else []
    for file in files:
        click.echo(f"{file}: written", err=True)
    if as_json:
        click.echo(json.dumps(_report(obtained, seen, files)))
    elif output is None:
        click.echo(base64.b64encode(obtained.evidence.data).decode())
    else:
        click.echo(f"report data: {obtained.report_data}", err=True)


def _report(obtained: Obtained, seen: tuple[Seen, ...], files: list[Path]) -> dict[str, object]:
    return {
        "tee": obtained.tee,
        "kind": obtained.evidence.tee.value,
        "report_data": str(obtained.report_data),
        "claims": obtained.claims.hex(),
        "evidence": base64.b64encode(obtained.evidence.data).decode(),
        "endorsements": [
            base64.b64encode(each).decode() for each in obtained.evidence.endorsements
        ],
        "files": [str(file) for file in files],
        "tees": [_seen(each) for each in seen],
    }


def _seen(each: Seen) -> dict[str, object]:
    return {"name": each.name, "found": each.found, "why": each.why}
