"""Assemble a tree from a bill of materials: entries that point at files of this host.

Nothing is copied to a staging folder; sealing reads the files. Nothing of the input runs.
"""

from __future__ import annotations

from casemate.errors import UsageError
from casemate.image.bom.assembly import Assembly
from casemate.image.bom.builder import Builder, join, reading, relative
from casemate.image.bom.folders import Owners, add_files, add_folders
from casemate.image.bom.grammar import BillOfMaterials, Target, User
from casemate.image.python_tree import python_files

# Folders that a server without privileges expects to write to.
_FOR_EVERYBODY = ("tmp", "var/tmp")
_ROOT = User(name="root", uid=0, gid=0)


def assemble(bill: BillOfMaterials) -> Assembly:
    """Assemble the tree of a bill.

    Raises:
        UsageError: a file isn't there, isn't what its hash says, or leads out of the folders that
            the bill names; a library isn't found; an owner is nobody of ``users``.
        MalformedError: a named ELF file can't be read; a path leads out of the new root.

    Source: specs/bill-of-materials.md, "Sections".
    """
    builder, owners = Builder(), _owners(bill.users)
    for python in bill.pythons:
        with reading(python.where):
            for file in python_files(python, builder.warnings):
                builder.sources.add(file.root)
                builder.add_file(
                    file.path, file.source, why=f"{python.where}: {file.why}",
                    executable=file.executable, strip=file.interpreters_own,
                )  # fmt: skip
    for target in bill.targets:
        _add_target(builder, target, owners)
    for write in bill.writes:
        builder.add_file(
            relative(write.path, write.where), write.content.encode(), why=f"{write.where}: write",
            mode=write.attributes.mode, owner=owners(write.attributes.owner, write.where),
        )  # fmt: skip
    if bill.users:
        _add_users(builder, bill.users)
    for name, where in bill.libraries:
        with reading(where):
            builder.add_library(name, why=f"{where}: libraries", strict=True)
    with reading("libraries"):
        builder.add_libraries()
    return builder.finish()


def _add_target(builder: Builder, target: Target, owners: Owners) -> None:
    base = relative(target.path, target.where)
    for folder in target.mkdirs:
        path, mode = join(base, folder.name, folder.where), folder.attributes.mode
        if mode is None and path in _FOR_EVERYBODY:
            mode = 0o1777
        owner = owners(folder.attributes.owner, folder.where)
        builder.add_folder(path, why=f"{folder.where}: mkdirs", mode=mode, owner=owner)
    for link in target.links:
        place = join(base, link.name, link.where)
        builder.add_link(place, link.text, why=f"{link.where}: createlinks")
    for copy in target.copies:
        for each in copy.dirs:
            add_folders(builder, base, copy, each, owners)
        for file in copy.files:
            add_files(builder, base, copy, file, owners)


def _owners(users: tuple[User, ...]) -> Owners:
    """Names of the bill's own users and of root; the machine's don't count."""
    named = {user.name: (user.uid, user.gid) for user in (_ROOT, *users)}

    def owner(text: str, where: str) -> tuple[int, int]:
        if not text:
            return 0, 0
        name, _, group = text.partition(":")
        for each in (name, *([group] if group else [])):
            if not each.isdigit() and each not in named:
                raise UsageError(
                    "bom.owner",
                    f"{where}: there's no user {each} in the bill",
                    field="owner",
                    expected=f"a number, or one of {', '.join(named)}",
                    got=each,
                    remedy="Add it to users, or give the number.",
                )
        uid, gid = (int(name), int(name)) if name.isdigit() else named[name]
        if group:
            gid = int(group) if group.isdigit() else named[group][1]
        return uid, gid

    return owner


def _add_users(builder: Builder, users: tuple[User, ...]) -> None:
    named = {user.name: user for user in (_ROOT, *users)}.values()
    passwd = "".join(f"{u.name}:x:{u.uid}:{u.gid}::{u.home}:{u.shell}\n" for u in named)
    group = "".join(f"{u.name}:x:{u.gid}:\n" for u in named)
    builder.add_file("etc/passwd", passwd.encode(), why="users")
    builder.add_file("etc/group", group.encode(), why="users")
