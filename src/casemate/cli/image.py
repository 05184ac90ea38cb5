"""``casemate image``: seal directory trees, and look at, check and open what was sealed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from casemate.cli.image_registry import pull, push, registry_access
from casemate.cli.image_source import (
    allow_pickle,
    copy,
    danger,
    decryption_keys,
    doctor,
    export,
    include_dirs,
)
from casemate.cli.progress import progress_bars
from casemate.encoding import decode_hex
from casemate.errors import CasemateError, UsageError
from casemate.errors.render import printable
from casemate.image.compare import compare
from casemate.image.extract import extract as extract_image
from casemate.image.file import ImageFile
from casemate.image.format import TocEntry
from casemate.image.keys import read_key_file
from casemate.image.model import MODEL_RECORD, recorded_digest
from casemate.image.opening import opened_on
from casemate.image.reader import SealedImage, open_image
from casemate.image.rekey import rekey as change_key
from casemate.image.seal import seal as seal_tree
from casemate.image.storage import require_memory_backed, require_no_plain_swap
from casemate.image.tree import EntryKind
from casemate.image.ways import OpenChoice
from casemate.image.writing import require_new
from casemate.project.drafts import draft_contract
from casemate.project.files import write_public
from casemate.project.programs import terminated_like_interrupted
from casemate.project.registries import RegistryAccess
from casemate.project.sources import DEFAULT_LIMIT, read_source
from casemate.types import Sha384

_FILE = click.Path(dir_okay=False, path_type=Path)
_PIECE = 1 << 20
_MAX_RECORD = 64 << 20
_FOLDER = click.Path(file_okay=False, path_type=Path)
_json = click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout.")
_key = click.option("--key", "key", type=_FILE, required=True, help="The image's key file.")
_id = click.option(
    "--id",
    "image_id",
    metavar="HEX",
    help="Which image it must be; without it, any image under the key is taken.",
)
_writable = click.option(
    "--writable", is_flag=True,
    help="Let a mount be changed: in memory, until it ends. The image stays as it is.",
)  # fmt: skip


@click.group()
@click.pass_context
def command(context: click.Context) -> None:
    """Seal a directory tree into one encrypted file, and open what was sealed."""
    context.with_resource(terminated_like_interrupted())  # files that were begun are removed


command.add_command(copy)
command.add_command(doctor)
command.add_command(export)
command.add_command(push)
command.add_command(pull)


@command.command(
    epilog="""\b
Examples:
  casemate image seal model:model/ images/model.sealed --key secrets/model_key
  casemate image seal bom:model-server images/root.sealed --key secrets/image_key
  casemate image seal my-server.yaml images/root.sealed --key secrets/image_key
  casemate image seal oci:tf:1.0 root.sealed --key image_key --draft launch.toml
  casemate image seal registry:localhost:5000/tf:1.0 root.sealed --key image_key
"""
)
@click.argument("source")
@click.argument("output", type=_FILE)
@_key
@click.option("--keep-owner", is_flag=True, help="Keep owners; otherwise all belongs to root.")
@click.option("--keep-times", is_flag=True, help="Keep times of change; otherwise all are 0.")
@click.option("--draft", type=_FILE, help="Of a container image: draft its launch contract here.")
@click.option(
    "--max-size", type=click.IntRange(1), default=DEFAULT_LIMIT, metavar="BYTES",
    help="What a container image may unpack to.  [default: 64 GiB]",
)  # fmt: skip
@allow_pickle
@include_dirs
@decryption_keys
@danger
@registry_access
@_json
def seal(
    access: RegistryAccess,
    source: str,
    output: Path,
    key: Path,
    keep_owner: bool,
    keep_times: bool,
    draft: Path | None,
    max_size: int,
    allow_pickle: bool,
    include_dirs: tuple[Path, ...],
    decryption_keys: tuple[Path, ...],
    allow_disk: bool,
    as_json: bool,
) -> None:
    """Seal the tree of SOURCE into OUTPUT.

    SOURCE is a folder; or a bill of materials (.yaml), which names the files and packages of this
    machine that make up a root file system; or bom:NAME, a bill in the box; or a container image,
    oci:PATH or docker-archive:FILE, with :TAG or @sha256:… after it where there are several, or
    registry:HOST/NAME:TAG; or model:DIR, a folder that holds a model, whose files are looked at.

    The same tree under the same key gives the same file. The id that is printed pins every byte;
    a launch contract names images by it.
    """
    secret = read_key_file(key)
    if draft is not None:
        require_new(draft)
    with progress_bars() as bar:
        tree = read_source(
            source, keep_owner=keep_owner, keep_times=keep_times, limit=max_size,
            include_dirs=include_dirs, access=access, decryption_keys=decryption_keys,
            allow_disk=allow_disk, allow_pickle=allow_pickle, progress=bar("reading"),
        )  # fmt: skip
    if draft is not None and tree.container is None:
        raise UsageError(
            "image.draft",
            "only a container image says how it is run",
            field="--draft",
            expected="oci:…, docker-archive:… or registry:… as the source",
            got=source,
        )
    for warning in tree.warnings:
        click.echo(f"casemate: warning: {printable(warning)}", err=True)
    with _progress("sealing") as progress:
        info = seal_tree(  # it tells of each byte twice, once for each pass
            tree.entries,
            secret,
            output,
            progress=lambda done, total: progress(done // 2, total // 2),
        )
    _report(
        {
            "image": str(info.path),
            "id": str(info.id),
            "entries": info.entries,
            "payload_size": info.payload_size,
            "file_size": info.file_size,
            "container": tree.container.digest if tree.container is not None else "",
            "weights": tree.weights,
        },
        as_json=as_json,
    )
    if draft is not None and tree.container is not None:
        write_public(draft, draft_contract(tree.container, output, key).encode())


@command.command(epilog="Example:  casemate image show model.image")
@click.argument("image", type=_FILE)
@click.option("--key", "key", type=_FILE, help="Its key file, to tell what is inside too.")
@_json
def show(image: Path, key: Path | None, as_json: bool) -> None:
    """Say what IMAGE is: what anyone can see of it and, with the key, what is inside."""
    file = ImageFile(image)
    file.close()
    report: dict[str, str | int] = {
        "image": str(image),
        "id": str(file.id),
        "payload_size": file.header.payload_size,
        "file_size": file.header.file_size,
        "chunks": file.header.chunks,
    }
    if key is not None:
        with open_image(image, read_key_file(key), file.id) as opened:
            report["entries"] = len(opened.entries)
            report["content_size"] = sum(entry.size for entry in opened)
            report["weights"] = _weights(opened)
    _report(report, as_json=as_json)


@command.command(epilog="Example:  casemate image ls model.image --key secrets/model_key")
@click.argument("image", type=_FILE)
@_key
@_id
@_json
def ls(image: Path, key: Path, image_id: str | None, as_json: bool) -> None:
    """List the entries of IMAGE."""
    with _opened(image, key, image_id) as opened:
        entries = tuple(opened)
    if as_json:
        click.echo(json.dumps([_as_json(entry) for entry in entries]))
        return
    for entry in entries:
        link = f" -> {printable(entry.target)}" if entry.target else ""
        click.echo(
            f"{entry.kind.value:<9} {entry.mode:04o} {entry.uid:>5} {entry.gid:>5} "
            f"{entry.size:>12} {printable(entry.path)}{link}"
        )


@command.command(
    epilog="Example:  casemate image cat root.image etc/passwd --key secrets/image_key"
)
@click.argument("image", type=_FILE)
@click.argument("path")
@_key
@_id
def cat(image: Path, path: str, key: Path, image_id: str | None) -> None:
    """Write the file PATH of IMAGE to stdout."""
    with _opened(image, key, image_id) as opened:
        entry = opened.entry(path.strip("/"))
        size = opened.content_of(entry).size
        for start in range(0, max(size, 1), _PIECE):  # what isn't a file is read from, and refused
            sys.stdout.buffer.write(opened.read_file(entry, start, _PIECE))
        sys.stdout.buffer.flush()  # while errors are still heeded


@command.command(epilog="Example:  casemate image diff old.image new.image --key secrets/image_key")
@click.argument("old", type=_FILE)
@click.argument("new", type=_FILE)
@_key
@click.option("--new-key", type=_FILE, help="NEW's key file.  [default: the same]")
@_json
def diff(old: Path, new: Path, key: Path, new_key: Path | None, as_json: bool) -> None:
    """Tell what differs between two images: entries, owners, modes, contents."""
    with (
        _opened(old, key, None) as before,
        _opened(new, new_key or key, None) as after,
        _progress("comparing") as progress,
    ):
        differences = tuple(compare(before, after, progress=progress))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(each) for each in differences]))
        return
    for each in differences:
        what = ", ".join(each.what)
        click.echo(f"{each.change.value:<8} {printable(each.path)}  {what}".rstrip())
    if not differences:
        click.echo("the same tree", err=True)


@command.command(
    epilog="Example:  casemate image rekey model.image --key secrets/model_key --new-key new_key"
)
@click.argument("image", type=_FILE)
@_key
@click.option("--new-key", type=_FILE, required=True, help="The key file that shall open it.")
@_json
def rekey(image: Path, key: Path, new_key: Path, as_json: bool) -> None:
    """Change the key of IMAGE in place; its id stays, and no data is written again.

    Whoever kept the old key and a copy of the old file still reads that. To revoke a reader for
    good, seal anew.
    """
    image_id = change_key(image, read_key_file(key), read_key_file(new_key))
    _report({"image": str(image), "id": str(image_id), "key": str(new_key)}, as_json=as_json)


@command.command(epilog="Example:  casemate image why bom:model-server usr/lib/python3.11/ssl.py")
@click.argument("source")
@click.argument("path")
@include_dirs
@_json
def why(source: str, path: str, include_dirs: tuple[Path, ...], as_json: bool) -> None:
    """Tell why PATH is in the tree of SOURCE, a bill of materials, or that it isn't."""
    reasons = read_source(source, include_dirs=include_dirs).reasons(path)
    if as_json:
        click.echo(json.dumps(reasons))
        return
    for each, reason in reasons.items():
        click.echo(f"{printable(each)}: {printable(reason)}")


@command.command(epilog="Example:  casemate image verify model.image --key secrets/model_key")
@click.argument("image", type=_FILE)
@_key
@_id
@_json
def verify(image: Path, key: Path, image_id: str | None, as_json: bool) -> None:
    """Read all of IMAGE and check every byte."""
    with _opened(image, key, image_id) as opened, _progress("verifying") as progress:
        opened.verify_all(progress=progress)
        report = {"image": str(image), "id": str(opened.id), "verified": "every byte"}
    _report(report, as_json=as_json)


@command.command(
    epilog="Example:  casemate image extract model.image /dev/shm/model --key secrets/model_key"
)
@click.argument("image", type=_FILE)
@click.argument("folder", type=_FOLDER)
@_key
@_id
@click.option("--only", multiple=True, metavar="PATH", help="Only this path and what is under it.")
@click.option("--restore-owner", is_flag=True, help="Restore owners too. Needs root.")
@danger
@_json
def extract(
    image: Path,
    folder: Path,
    key: Path,
    image_id: str | None,
    only: tuple[str, ...],
    restore_owner: bool,
    allow_disk: bool,
    as_json: bool,
) -> None:
    """Extract IMAGE into FOLDER, which must be empty or new, and lie in memory.

    What is written there is plaintext: a folder on a disk is refused unless insisted on.
    """
    require_memory_backed(folder, allow_disk=allow_disk)
    require_no_plain_swap(allow_disk=allow_disk)
    with _opened(image, key, image_id) as opened, _progress("extracting") as progress:
        done = extract_image(
            opened, folder, subset=only or None, progress=progress, restore_owner=restore_owner
        )
    _report(
        {
            "folder": str(folder),
            "entries": done.entries,
            "content_size": done.size,
            "without_attributes": ", ".join(done.without_attributes),
        },
        as_json=as_json,
    )


@command.command(epilog="Example:  casemate image mount model.image /mnt --key secrets/model_key")
@click.argument("image", type=_FILE)
@click.argument("folder", type=_FOLDER)
@_key
@_id
@click.option(
    "--through", type=click.Choice(["auto", "erofs", "fuse"]), default="auto", show_default=True,
    help="Insist on a file system of the kernel; auto takes EROFS for large files, such as a "
    "model's, where this machine allows it.",
)  # fmt: skip
@_writable
@danger
def mount(
    image: Path,
    folder: Path,
    key: Path,
    image_id: str | None,
    through: str,
    writable: bool,
    allow_disk: bool,
) -> None:
    """Mount IMAGE on FOLDER, which must be empty or new, until Ctrl-C, SIGTERM, SIGHUP or umount.

    It is read-only, or with --writable as if it weren't: the image stays as it is, and whatever was
    changed is gone with the mount.
    """
    choice = OpenChoice.MOUNT if through == "auto" else OpenChoice(through)
    _hold_open(image, folder, key, image_id, choice, writable=writable, allow_disk=allow_disk)


@command.command(
    "open", epilog="Example:  casemate image open model.image /dev/shm/m --key secrets/model_key"
)
@click.argument("image", type=_FILE)
@click.argument("folder", type=_FOLDER)
@_key
@_id
@click.option(
    "--open", "choice", type=click.Choice([each.value for each in OpenChoice]),
    default="auto", show_default=True,
    help="Insist on a way, or on a file system to mount it through; auto mounts where this machine "
    "allows it.",
)  # fmt: skip
@_writable
@danger
def open_command(
    image: Path,
    folder: Path,
    key: Path,
    image_id: str | None,
    choice: str,
    writable: bool,
    allow_disk: bool,
) -> None:
    """Open IMAGE in FOLDER, mounted or extracted to memory, until Ctrl-C, SIGTERM or SIGHUP.

    FOLDER must be empty or new; it is empty, or gone, afterwards.
    """
    _hold_open(
        image, folder, key, image_id, OpenChoice(choice), writable=writable, allow_disk=allow_disk
    )


def _hold_open(
    image: Path,
    folder: Path,
    key: Path,
    image_id: str | None,
    choice: OpenChoice,
    *,
    writable: bool,
    allow_disk: bool,
) -> None:
    try:
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(_opened(image, key, image_id))
            with _progress("extracting") as progress:
                held = stack.enter_context(
                    opened_on(
                        opened, folder, choice,
                        allow_disk=allow_disk, writable=writable, on_error=_complain,
                        progress=progress,
                    )
                )  # fmt: skip
            why = f" ({held.plan.reason})" if held.plan.reason else ""
            how = f"mounted through {held.through} on" if held.through else "extracted to"
            click.echo(f"{image} is {how} {folder}{why}; Ctrl-C ends it", err=True)
            held.wait()
        click.echo(f"{folder} is closed: somebody unmounted it, or ended who served it", err=True)
    except KeyboardInterrupt:
        click.echo(f"{folder} is closed", err=True)


def _weights(opened: SealedImage) -> str:
    """The digest of a model's weights, as it was recorded when they were sealed."""
    entry = opened.entries.get(MODEL_RECORD)
    # In a tree that wasn't sealed as a model, it may be anything.
    if entry is None or entry.kind is not EntryKind.FILE:
        return ""
    return recorded_digest(opened.read_file(entry, 0, _MAX_RECORD))


def _opened(image: Path, key: Path, image_id: str | None) -> SealedImage:
    expected = None
    if image_id is not None:
        expected = Sha384(decode_hex(image_id, field="--id", length=48))
    return open_image(image, read_key_file(key), expected)


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    with progress_bars() as bar:
        yield bar(what)


def _report(report: Mapping[str, str | int], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, value in report.items():
        if value != "":
            click.echo(f"{name.replace('_', ' ') + ':':<15}{printable(str(value))}")


def _as_json(entry: TocEntry) -> dict[str, str | int]:
    return {
        "path": entry.path,
        "kind": entry.kind.value,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "mtime": entry.mtime,
        "size": entry.size,
        "target": entry.target,
    }


def _complain(error: CasemateError) -> None:
    click.echo(f"casemate: {printable(str(error))} [{error.code}]", err=True)
