"""``casemate collateral``: fetch what vendors say of their hardware, keep it, carry it offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from casemate.cli.options import cache_option, service_options
from casemate.cli.verify import KINDS
from casemate.collateral.bundle import Bundle
from casemate.collateral.gather import Part
from casemate.errors.render import render_error
from casemate.project.collateral import (
    Fetched,
    Place,
    fetch_for,
    import_bundle,
    load_given,
    now,
    read_bundle,
    write_bundle,
    write_loose,
)
from casemate.types import sha256

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_JSON = click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
_BUNDLE_KEY = click.option(
    "--bundle-key", type=_FILE, multiple=True, help="Take bundles of this public key alone."
)


@click.group()
def command() -> None:
    """Fetch what vendors say of their hardware, keep it, carry it to where there's no connection.

    Each part is signed by its vendor, and is checked before it is kept and whenever it is used.
    """


@command.command(epilog="Example:  casemate collateral fetch quote.bin --pccs https://pccs:8081")
@click.argument("evidence", type=_FILE, nargs=-1)
@click.option(
    "--tee", type=click.Choice(KINDS), default="auto", show_default=True, help="What it is."
)
@click.option(
    "--endorsements", type=_FILE, multiple=True,
    help="What is at hand already: a GPU's certificates, or a VLEK.",
)  # fmt: skip
@click.option("--out", type=_FOLDER, help="Write it there as loose files, too.")
@service_options
@_JSON
def fetch(
    evidence: tuple[Path, ...],
    tee: str,
    endorsements: tuple[Path, ...],
    out: Path | None,
    place: Place,
    as_json: bool,
) -> int:
    """Fetch what EVIDENCE needs; without any, what the cache holds and is due, or has ended.

    Exit code 6 where a part can't be had; what could be had is kept.
    """
    given = load_given(endorsements, bundle_keys=(), at=now()).endorsements
    with Console(stderr=True).status("Asking vendors' services…"):
        fetched = fetch_for(
            evidence, tee=None if tee == "auto" else tee, given=given, cache=place.cache()
        )
    if out is not None:
        for path in write_loose(fetched.parts, out):
            click.echo(f"{path}: written", err=True)
    if as_json:
        click.echo(json.dumps(_report(fetched)))
    else:
        for part in fetched.parts:
            click.echo(f"{'fetched' if part.fetched else 'at hand':<9}{_line(part)}")
    for error in fetched.errors.values():
        click.echo(render_error(error, program="casemate collateral"), err=True)
    return 6 if fetched.errors else 0


@command.command(epilog="Example:  casemate collateral show site.bundle")
@click.argument("bundle", type=_FILE, required=False)
@cache_option
@_BUNDLE_KEY
@_JSON
def show(
    bundle: Path | None,
    collateral_cache: Path | None,
    bundle_key: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show what the cache holds, or BUNDLE, and how long each part is good."""
    if bundle is not None:
        _show_bundle(read_bundle(bundle, keys=bundle_key, at=now()), as_json=as_json)
        return
    entries = Place(folder=collateral_cache).cache().entries()
    if as_json:
        click.echo(json.dumps([
            {
                "name": each.name,
                "state": each.state,
                "asked": each.asked.isoformat() if each.asked else None,
                "from": each.validity.start.isoformat() if each.validity else None,
                "until": each.validity.end.isoformat() if each.validity else None,
            }
            for each in entries
        ]))  # fmt: skip
        return
    for each in entries:
        until = f"until {each.validity.end:%Y-%m-%d %H:%M}" if each.validity else ""
        click.echo(f"{each.state:<9}{until:<24}{each.name}")


@command.command(
    epilog="Example:  casemate collateral bundle site.bundle --key bundle.key quote.bin"
)
@click.argument("output", type=_FILE)
@click.argument("evidence", type=_FILE, nargs=-1)
@click.option(
    "--key", type=_FILE, required=True,
    help="Signs the bundle (casemate key new --for identity).",
)  # fmt: skip
@click.option(
    "--days", type=click.IntRange(1, 366), default=30, show_default=True,
    help="After which the bundle ends, whatever is in it.",
)  # fmt: skip
@click.option("--tee", type=click.Choice(KINDS), default="auto", help="What EVIDENCE is.")
@click.option("--endorsements", type=_FILE, multiple=True, help="As for fetch.")
@cache_option
@_JSON
def bundle(
    output: Path,
    evidence: tuple[Path, ...],
    key: Path,
    days: int,
    tee: str,
    endorsements: tuple[Path, ...],
    collateral_cache: Path | None,
    as_json: bool,
) -> int:
    """Write OUTPUT, a signed bundle of what the cache holds, or of what EVIDENCE needs.

    Nobody is asked: fetch first. Exit code 6 where a part isn't in the cache; then nothing is
    written.
    """
    cache = Place(folder=collateral_cache).cache()
    if evidence:
        given = load_given(endorsements, bundle_keys=(), at=now()).endorsements
        found = fetch_for(evidence, tee=None if tee == "auto" else tee, given=given, cache=cache)
        if found.errors:
            for error in found.errors.values():
                click.echo(render_error(error, program="casemate collateral"), err=True)
            return 6
        parts = found.parts
    else:
        parts = cache.parts()
    made = write_bundle(output, parts, key=key, days=days)
    if as_json:
        click.echo(json.dumps({"file": str(output), **_bundle_report(made)}))
    else:
        click.echo(
            f"{output}: {len(made.entries)} parts, good until {made.expires:%Y-%m-%d %H:%M}, "
            f"signed by {sha256(made.key)}",
            err=True,
        )
    return 0


@command.command(
    "import", epilog="Example:  casemate collateral import site.bundle --bundle-key bundle.key.pub"
)
@click.argument("file", metavar="BUNDLE", type=_FILE)
@click.option(
    "--bundle-key", type=_FILE, multiple=True, required=True,
    help="The public key of who makes your bundles.",
)  # fmt: skip
@cache_option
@_JSON
def import_(
    file: Path, bundle_key: tuple[Path, ...], collateral_cache: Path | None, as_json: bool
) -> int:
    """Put what BUNDLE carries into the cache, for --offline.

    A bundle that is older than one that was taken before is refused, and no part replaces a newer
    one. Exit code 6 where a part wasn't taken.
    """
    taken = import_bundle(file, keys=bundle_key, place=Place(folder=collateral_cache))
    if as_json:
        click.echo(json.dumps([
            {
                "name": each.name,
                "until": each.until.isoformat() if each.until else None,
                "error": each.error.as_dict() if each.error else None,
            }
            for each in taken
        ]))  # fmt: skip
    else:
        for each in taken:
            until = f"until {each.until:%Y-%m-%d %H:%M}" if each.until else "not taken"
            click.echo(f"{until:<24}{each.name}")
    for each in taken:
        if each.error is not None:
            click.echo(
                render_error(each.error, program=f"casemate collateral: {each.name}"), err=True
            )
    return 6 if any(each.error for each in taken) else 0


def _line(part: Part) -> str:
    return f"{f'until {part.validity.end:%Y-%m-%d %H:%M}':<24}{part.wanted.name}"


def _report(fetched: Fetched) -> dict[str, object]:
    return {
        "parts": [
            {
                "name": part.wanted.name,
                "fetched": part.fetched,
                "from": part.validity.start.isoformat(),
                "until": part.validity.end.isoformat(),
                "warning": part.warning,
            }
            for part in fetched.parts
        ],
        "errors": {name: error.as_dict() for name, error in fetched.errors.items()},
    }


def _show_bundle(opened: Bundle, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_bundle_report(opened)))
        return
    click.echo(f"{'created:':<10}{opened.created:%Y-%m-%d %H:%M}")
    click.echo(f"{'expires:':<10}{opened.expires:%Y-%m-%d %H:%M}")
    click.echo(f"{'signer:':<10}{sha256(opened.key)}")
    for name in _names(opened):
        click.echo(f"{'part:':<10}{name}")


def _bundle_report(opened: Bundle) -> dict[str, object]:
    return {
        "created": opened.created.isoformat(),
        "expires": opened.expires.isoformat(),
        "signer": str(sha256(opened.key)),
        "parts": list(_names(opened)),
    }


def _names(opened: Bundle) -> Sequence[str]:
    return tuple(opened.entries)
