"""Lay the layers of a container image over each other, and get the tree that a container sees.

A layer adds and replaces; ``.wh.NAME`` takes ``NAME`` of the layers below away, ``.wh..wh..opq``
all that they have in its folder. Names that share a file keep sharing it until one is replaced.

Source: OCI Image Format Specification 1.1, "Image Layer Filesystem Changeset".
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from casemate.errors import MalformedError
from casemate.image.oci.layers import Member, MemberKind, members, unpack
from casemate.image.oci.manifest import ContainerConfig, Layer, find_image
from casemate.image.oci.ocicrypt import Key
from casemate.image.oci.store import open_store
from casemate.image.storage import is_memory, require_memory_backed, require_no_plain_swap
from casemate.image.tree import EntryKind, TreeEntry, check_path

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_MAX_LINKS = 40
_KINDS = {
    MemberKind.FILE: EntryKind.FILE,
    MemberKind.DIRECTORY: EntryKind.DIRECTORY,
    MemberKind.SYMLINK: EntryKind.SYMLINK,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerTree:
    """A container image as one tree.

    Args:
        digest: ``sha256:…`` of its manifest.
        config: how it is run.
        encrypted: whether a layer was.
        entries: the tree, sorted by path.
        why: for each path, the layer that it is from.
        warnings: what was left out.
        scratch: where contents lie; they are gone when it is closed or forgotten.
    """

    digest: str
    config: ContainerConfig
    encrypted: bool
    entries: tuple[TreeEntry, ...]
    why: dict[str, str]
    warnings: tuple[str, ...]
    scratch: tempfile.TemporaryDirectory[str]


def read_container_image(
    path: Path,
    reference: str = "",
    *,
    limit: int,
    keep_times: bool = False,
    keys: tuple[Key, ...] = (),
    allow_disk: bool = False,
) -> ContainerTree:
    """Read a container image.

    Args:
        path: a folder in OCI layout, an archive of one, or one of ``docker save``.
        reference: a tag, or ``sha256:…`` of a manifest; nothing where there is one image.
        limit: how many bytes its layers may have in all, without compression.
        keep_times: keep times of change; otherwise all are 0.
        keys: private keys, for encrypted layers.
        allow_disk: accept that encrypted layers reach a disk once they are decrypted.

    Raises:
        UsageError: ``image.disk``, ``image.swap`` where encrypted layers would reach a disk.
        UsageError, MalformedError, NotGenuineError: ``container.*``.
    """
    tree = LayeredTree()
    with open_store(path, limit=limit) as store:
        image = find_image(store, reference, machine=os.uname().machine)
        encrypted = any(layer.sealing is not None for layer in image.layers)
        place = _memory(allow_disk=allow_disk) if encrypted else None
        scratch = tempfile.TemporaryDirectory(prefix="casemate-layers-", dir=place)
        try:
            for number, layer in enumerate(image.layers):
                archive = Path(scratch.name) / str(number)
                limit -= unpack(store, layer, archive, limit=limit, keys=keys)
                tree.apply(members(archive), _describe(number, layer))
            entries = tuple(tree.entries(keep_times=keep_times))
        except BaseException:
            scratch.cleanup()
            raise
    return ContainerTree(
        digest=image.digest,
        config=image.config,
        encrypted=encrypted,
        entries=entries,
        why=tree.why(),
        warnings=tuple(tree.warnings),
        scratch=scratch,
    )


def _memory(*, allow_disk: bool) -> Path:
    """The folder for temporary files, or another one in memory where that isn't."""
    require_no_plain_swap(allow_disk=allow_disk)
    usual = Path(tempfile.gettempdir())
    if not allow_disk and not is_memory(usual) and os.access(_SHARED_MEMORY, os.W_OK):
        usual = _SHARED_MEMORY
    require_memory_backed(usual, allow_disk=allow_disk)
    return usual


def _describe(number: int, layer: Layer) -> str:
    made_by = f": {layer.made_by}" if layer.made_by else ""
    return f"layer {number + 1}{made_by}"


@dataclass(slots=True)
class _Node:
    """What a name stands for; several names may stand for one."""

    member: Member
    layer: str


@dataclass(slots=True)
class LayeredTree:
    """The tree of layers so far; names stand for nodes, several perhaps for one."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    children: dict[str, set[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def apply(self, layer: Iterable[Member], name: str) -> None:
        """Lay a layer over what there is."""
        added: list[Member] = []
        for member in layer:
            folder, _, last = member.path.rpartition("/")
            if last == _OPAQUE:
                for child in sorted(self.children.get(self._resolve(folder), ())):
                    self._remove(child)
            elif last.startswith(_WHITEOUT * 2):
                continue  # notes of a storage driver to itself
            elif last.startswith(_WHITEOUT):
                hidden = last.removeprefix(_WHITEOUT)
                if hidden in ("", ".", ".."):
                    raise _malformed(member.path, "a whiteout of a name")
                self._remove(_join(self._resolve(folder), hidden))
            else:
                added.append(member)
        for member in added:
            self._add(member, name)

    def _add(self, member: Member, layer: str) -> None:
        folder, _, last = member.path.rpartition("/")
        path = _join(self._resolve(folder), last)
        check_path(path)
        if member.kind is MemberKind.OTHER:
            self.warnings.append(f"{path} is left out: it is a {member.kind.value}")
            self._remove(path)
            return
        node = _Node(member, layer)
        if member.kind is MemberKind.HARDLINK:
            head, _, tail = member.target.rpartition("/")
            shared = self.nodes.get(_join(self._resolve(head), tail))
            if shared is None or shared.member.kind is MemberKind.DIRECTORY:
                raise _malformed(member.path, "a hard link to a file that is there")
            node = shared
        there = self.nodes.get(path)
        if there is node:
            return
        both = MemberKind.DIRECTORY
        if there is not None and not (there.member.kind is both and node.member.kind is both):
            self._remove(path)
        self._add_folders(path, layer)
        self._put(path, node)

    def _add_folders(self, path: str, layer: str) -> None:
        """The folders on the way, where no layer has them."""
        while folder := path.rpartition("/")[0]:
            there = self.nodes.get(folder)
            if there is not None and there.member.kind is not MemberKind.DIRECTORY:
                raise _malformed(path, "a folder above it")
            if there is not None:
                return
            made = Member(path=folder, kind=MemberKind.DIRECTORY, mode=0o755, uid=0, gid=0, mtime=0)
            self._put(folder, _Node(made, layer))
            path = folder

    def _put(self, path: str, node: _Node) -> None:
        self.nodes[path] = node
        self.children.setdefault(path.rpartition("/")[0], set()).add(path)

    def _remove(self, path: str) -> None:
        """Take a path away, and all that lies under it."""
        self.children.get(path.rpartition("/")[0], set()).discard(path)
        pending = [path]
        while pending:
            each = pending.pop()
            self.nodes.pop(each, None)
            pending += self.children.pop(each, ())

    def _resolve(self, folder: str) -> str:
        """The folder's real path: links on the way are followed, within the image."""
        pending, at, links = [part for part in folder.split("/") if part][::-1], "", 0
        while pending:
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                at = at.rpartition("/")[0]
                continue
            step = _join(at, part)
            there = self.nodes.get(step)
            if there is None or there.member.kind is not MemberKind.SYMLINK:
                at = step
                continue
            links += 1
            if links > _MAX_LINKS:
                raise _malformed(folder, f"at most {_MAX_LINKS} links on the way")
            if there.member.target.startswith("/"):
                at = ""
            pending += there.member.target.split("/")[::-1]
        return at

    def entries(self, *, keep_times: bool) -> Iterator[TreeEntry]:
        """The tree, sorted; of names that share a file the first is the file."""
        first: dict[int, str] = {}
        for path in sorted(self.nodes, key=str.encode):
            member = self.nodes[path].member
            mtime = member.mtime if keep_times else 0
            owner = first.setdefault(id(self.nodes[path]), path)
            if owner != path and member.kind is MemberKind.FILE:
                yield TreeEntry(
                    path=path, kind=EntryKind.HARDLINK, mode=member.mode, uid=member.uid,
                    gid=member.gid, mtime=mtime, target=owner,
                )  # fmt: skip
                continue
            link = member.kind is MemberKind.SYMLINK
            yield TreeEntry(
                path=path, kind=_KINDS[member.kind], mode=0o777 if link else member.mode,
                uid=member.uid, gid=member.gid, mtime=mtime, size=member.size,
                target=member.target, source=member.content, xattrs=member.xattrs,
            )  # fmt: skip

    def why(self) -> dict[str, str]:
        """Which layer each path is from."""
        return {path: node.layer for path, node in self.nodes.items()}


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _malformed(path: str, expected: str) -> MalformedError:
    return MalformedError(
        "container.layer",
        f"the container image has something that can't be at {path[:120]}",
        field=path[:120],
        expected=expected,
        got="something else",
    )
