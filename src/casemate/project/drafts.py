"""From how a container is run to a draft of the launch contract, for a person to finish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from casemate.image.tree import EntryKind, FilePart, TreeEntry

if TYPE_CHECKING:
    from casemate.image.oci import ContainerTree

_MAX_ACCOUNTS = 1 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def draft_contract(container: ContainerTree, image: Path, key: Path) -> str:
    """The source of a launch contract, TOML, that runs a container image as its makers meant it.

    Args:
        container: the image.
        image: the file that it was sealed into.
        key: its key's file; the broker is to release it under the name of the file.

    Source: specs/launch-contract.md, "Source form".
    """
    config, entries = container.config, {entry.path: entry for entry in container.entries}
    uid, gid, doubt = _user(config.user, entries)
    environment = ", ".join(
        f"{_quoted(name)} = {_quoted(value)}" for name, value in config.environment.items()
    )
    lines = [
        f"# Drafted from the container image {container.digest}.",
        "# Read it, add secrets and the broker's key, then: casemate contract build launch.toml …",
        "version = 1",
        f"argv = [{', '.join(map(_quoted, _absolute(config.argv, config.environment, entries)))}]",
        f"environment = {{ {environment} }}",
        f"working-directory = {_quoted(config.working_directory)}",
        *([f"# {doubt}"] if doubt else []),
        f"uid = {uid}",
        f"gid = {gid}",
        'tls = "secret"',
        "",
        "[[images]]",
        f"file = {_quoted(image.name)}",
        f"key = {_quoted(key.name)}",
        'mount = "/"',
        "",
        "[broker]",
        'address = "localhost:50051"',
        'key-file = "broker.key.pub"',
    ]
    return "\n".join(lines) + "\n"


def _absolute(
    argv: tuple[str, ...], environment: Mapping[str, str], entries: Mapping[str, TreeEntry]
) -> tuple[str, ...]:
    """The command line with its program's path: a contract leaves nothing to be searched."""
    if not argv or "/" in argv[0]:
        return argv or ("/bin/server",)
    for folder in environment.get("PATH", _PATH).split(":"):
        path = PurePosixPath(folder) / argv[0]
        if str(path).lstrip("/") in entries:
            return (str(path), *argv[1:])
    return argv


def _user(user: str, entries: Mapping[str, TreeEntry]) -> tuple[int, int, str]:
    """User and group by number, and what is doubtful about them."""
    name, _, group = user.partition(":")
    uid, gid, doubt = 0, 0, ""
    if name.isascii() and name.isdigit():
        uid = int(name)
    elif name:
        account = _account(entries.get("etc/passwd"), name)
        if account is None:
            doubt = f"The image's user {name!r} isn't in its /etc/passwd."
        else:
            uid, gid = account
    if group.isascii() and group.isdigit():
        gid = int(group)
    elif group:
        found = _account(entries.get("etc/group"), group)
        if found is None:
            doubt = f"The image's group {group!r} isn't in its /etc/group."
        else:
            gid = found[0]
    return uid, gid, doubt


def _account(entry: TreeEntry | None, name: str) -> tuple[int, int] | None:
    """The numbers of a line of passwd or group: of passwd both, of group the first."""
    if entry is None or entry.kind is not EntryKind.FILE or not isinstance(entry.source, FilePart):
        return None
    with entry.source.path.open("rb") as file:
        file.seek(entry.source.offset)
        text = file.read(min(entry.size, _MAX_ACCOUNTS)).decode("utf-8", "replace")
    for line in text.splitlines():
        parts = line.split(":")
        if parts[0] == name and len(parts) > 3 and parts[2].isdigit():
            return int(parts[2]), int(parts[3]) if parts[3].isdigit() else 0
    return None


def _quoted(text: str) -> str:
    """A TOML string: JSON's form is one, but for DEL."""
    return json.dumps(text).replace("\x7f", "\\u007F")
