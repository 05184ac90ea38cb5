"""``casemate image copy``, ``export`` and ``doctor``: what a source amounts to."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from pathlib import Path

import click

from casemate.cli.image_registry import registry_access
from casemate.cli.progress import progress_bars
from casemate.errors import UsageError
from casemate.errors.render import printable
from casemate.image.copying import copy_tree
from casemate.image.storage import DANGER, require_memory_backed
from casemate.project.registries import RegistryAccess
from casemate.project.sources import read_source

include_dirs = click.option(
    "-i",
    "--include-dir",
    "include_dirs",
    type=click.Path(file_okay=False, path_type=Path),
    multiple=True,
    help="Where included bills are looked for, after the bill's own folder. May be given several "
    "times.",
)
decryption_keys = click.option(
    "--decryption-key",
    "decryption_keys",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Private key (PEM) for encrypted layers of a container image. May be given several times.",
)
danger = click.option(
    DANGER, "allow_disk", is_flag=True,
    help="INSECURE: let decrypted files reach a disk, or unencrypted swap.",
)  # fmt: skip
allow_pickle = click.option(
    "--allow-pickle",
    is_flag=True,
    help="INSECURE: of a model, take files that run code when they are loaded.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")


@click.command(epilog="Example:  casemate image copy server.yaml image --dry-run")
@click.argument("source")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@allow_pickle
@include_dirs
@decryption_keys
@danger
@registry_access
@_json
def copy(
    access: RegistryAccess,
    source: str,
    folder: Path,
    dry_run: bool,
    allow_pickle: bool,
    include_dirs: tuple[Path, ...],
    decryption_keys: tuple[Path, ...],
    allow_disk: bool,
    as_json: bool,
) -> None:
    """Copy the tree of SOURCE into FOLDER: only what has changed there since the last time.

    SOURCE is what `casemate image seal` takes. What FOLDER has beyond it stays. To seal a bill no
    copy is needed; a copy is for looking at, and for tools that want a folder.
    """
    with progress_bars() as bar:
        tree = read_source(
            source, include_dirs=include_dirs, access=access, decryption_keys=decryption_keys,
            allow_disk=allow_disk, allow_pickle=allow_pickle, progress=bar("reading"),
        )  # fmt: skip
    if tree.container is not None and tree.container.encrypted:
        require_memory_backed(folder, allow_disk=allow_disk)
    for warning in tree.warnings:
        click.echo(f"casemate: warning: {printable(warning)}", err=True)
    done, size = 0, 0
    with contextlib.ExitStack() as stack:
        progress = None if dry_run else stack.enter_context(progress_bars())("copying")
        for step in copy_tree(tree.entries, folder, dry_run=dry_run, progress=progress):
            done, size = done + 1, size + step.size
            if dry_run and not as_json:
                what = f"{step.action.value:<8} {step.kind.value:<9} {step.size:>12}"
                click.echo(f"{what} {printable(step.path)}")
            elif dry_run:
                click.echo(json.dumps(dataclasses.asdict(step)))
    if not dry_run and as_json:
        click.echo(json.dumps({"folder": str(folder), "changed": done, "written": size}))
    would = "would be " if dry_run else ""
    summary = f"{done} of {len(tree.entries)} entries {would}changed, {size} bytes {would}written"
    click.echo(summary, err=True)


@click.command(epilog="Example:  casemate image doctor server.yaml")
@click.argument("source")
@include_dirs
@_json
def doctor(source: str, include_dirs: tuple[Path, ...], as_json: bool) -> None:
    """List what is probably missing from the tree of SOURCE, by rules and by reading alone.

    Libraries that are loaded by name, interpreters of scripts, Python modules, certificates,
    accounts, name services, locales, time zones, links to nothing. A finding may be meant.
    """
    from casemate.image.bom.doctor import examine

    findings = examine(read_source(source, include_dirs=include_dirs))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in findings]))
        return
    for each in findings:
        asked = f" (asked for by {printable(each.path)})" if each.path else ""
        click.echo(f"{each.what.value}: {printable(each.name)}{asked}\n    {each.remedy}")
    if not findings:
        click.echo("nothing seems to be missing", err=True)


@click.command(epilog="Example:  casemate image export oci:tf:1.0 encrypted --recipient guest.pub")
@click.argument("source")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--recipient",
    "recipients",
    type=click.Path(dir_okay=False, path_type=Path),
    multiple=True,
    help="Public key (PEM) of one who may decrypt it. May be given several times.",
)
@click.option("--not-encrypted", is_flag=True, help="Insist on an image that anyone can read.")
@click.option("--tag", default="latest", show_default=True, help="Its name in the layout.")
@click.option("--argv", multiple=True, help="The command line, a word each; else the source's own.")
@include_dirs
@decryption_keys
@danger
@registry_access
@_json
def export(
    access: RegistryAccess,
    source: str,
    folder: Path,
    recipients: tuple[Path, ...],
    not_encrypted: bool,
    tag: str,
    argv: tuple[str, ...],
    include_dirs: tuple[Path, ...],
    decryption_keys: tuple[Path, ...],
    allow_disk: bool,
    as_json: bool,
) -> None:
    """Write the tree of SOURCE into FOLDER as a container image whose layer is encrypted.

    SOURCE is what `casemate image seal` takes. Guests of Confidential Containers run such images,
    and `skopeo copy --decryption-key` decrypts them (ocicrypt, JWE).
    """
    if not recipients and not not_encrypted:
        raise UsageError(
            "image.recipient",
            "nobody is named who may decrypt the image",
            field="--recipient",
            expected="a public key, or --not-encrypted",
            got="neither",
        )
    from casemate.image.oci.export import export_layout
    from casemate.image.oci.manifest import ContainerConfig
    from casemate.image.oci.ocicrypt import read_key

    plain = ContainerConfig(argv=(), environment={}, working_directory="/", user="")
    keys = tuple(read_key(path, private=False) for path in recipients)
    with progress_bars() as bar:
        tree = read_source(
            source, include_dirs=include_dirs, decryption_keys=decryption_keys, access=access,
            allow_disk=allow_disk, progress=bar("reading"),
        )  # fmt: skip
        config = tree.container.config if tree.container is not None else plain
        if argv:
            config = dataclasses.replace(config, argv=argv)
        done = export_layout(
            tree.entries, config, folder, tag=tag, recipients=keys, machine=os.uname().machine,
            progress=bar("exporting"),
        )  # fmt: skip
    report = {"folder": str(folder), "digest": done.digest, "size": done.size}
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, value in report.items():
        click.echo(f"{name + ':':<15}{value}")
