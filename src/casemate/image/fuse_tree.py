"""What a FUSE mount shows: the tree of an image, or the one file of a device."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from typing import NamedTuple

from casemate.image.erofs import Device
from casemate.image.format import CHUNK_SIZE, TocEntry
from casemate.image.fuse_wire import FuseError
from casemate.image.nodes import Node, Nodes
from casemate.image.reader import SealedImage
from casemate.image.tree import EntryKind

DEVICE_NAME = "device"
_PAGE = 4096


class Rest(NamedTuple):
    """What was decrypted besides what was asked for: whole pages of the file, or its end."""

    offset: int
    data: memoryview


class Tree(ABC):
    """Nodes, names and content, as the kernel asks for them.

    Args:
        nodes: what there is.
        size: bytes of all content.
    """

    def __init__(self, nodes: Nodes, *, size: int) -> None:
        self._nodes, self._children = nodes.nodes, nodes.names
        self.size = size
        self.has_attributes = any(
            node.entry.xattrs for node in self._nodes.values() if node.entry is not None
        )

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, number: int) -> Node:
        """The node with that number.

        Raises:
            FuseError: ESTALE where there is none.
        """
        found = self._nodes.get(number)
        if found is None:
            raise FuseError(errno.ESTALE)
        return found

    def child(self, node: Node, name: bytes) -> Node | None:
        """What ``name`` leads to in the directory ``node``, or None."""
        number = self._names(node).get(name)
        return None if number is None else self._nodes[number]

    def listing(self, node: Node) -> list[tuple[bytes, Node]]:
        """A directory's names, ``.`` and ``..`` first."""
        listing = [(b".", node), (b"..", self._nodes[node.parent])]
        listing += [(name, self._nodes[number]) for name, number in self._names(node).items()]
        return listing

    def _names(self, node: Node) -> dict[bytes, int]:
        names = self._children.get(node.number)
        if names is None:
            raise FuseError(errno.ENOTDIR)
        return names

    @abstractmethod
    def read(self, node: Node, room: memoryview, offset: int) -> tuple[int, Rest | None]:
        """Read a file's content.

        Args:
            node: the file.
            room: where to; as much as fits or is there.
            offset: in the file, bytes.

        Returns:
            How many bytes were read, and what else was decrypted for them, worth keeping.

        Raises:
            FuseError: EISDIR for what isn't a file.
            CasemateError: as ``SealedImage.pread_into``.
        """


class ImageTree(Tree):
    """The entries of an image, and their content.

    Args:
        image: open for as long as this is used.
    """

    def __init__(self, image: SealedImage) -> None:
        super().__init__(Nodes(image), size=image.header.payload_size)
        self._image = image

    def read(self, node: Node, room: memoryview, offset: int) -> tuple[int, Rest | None]:
        """A part of a file, decrypted; see :meth:`Tree.read`."""
        entry = node.entry
        if entry is None or entry.kind is not EntryKind.FILE:
            raise FuseError(errno.EISDIR)
        index = (entry.offset + offset) // CHUNK_SIZE
        fresh = len(room) < CHUNK_SIZE and not self._image.is_kept(index)
        length = self._image.pread_into(entry, room, offset)
        return length, self._rest(entry, index) if fresh and length else None

    def _rest(self, held: TocEntry, index: int) -> Rest | None:
        first = max(index * CHUNK_SIZE, held.offset) - held.offset
        first += -first % _PAGE
        last = min((index + 1) * CHUNK_SIZE - held.offset, held.size)
        last -= last % _PAGE if last < held.size else 0
        if first >= last:
            return None
        at = held.offset + first - index * CHUNK_SIZE
        return Rest(first, memoryview(self._image.chunk(index))[at : at + last - first])


class DeviceTree(Tree):
    """One file, :data:`DEVICE_NAME`: a device whose files are those of an image.

    Args:
        image: open for as long as this is used.
        device: where on the device they lie.
    """

    def __init__(self, image: SealedImage, device: Device) -> None:
        entry = TocEntry(
            DEVICE_NAME, EntryKind.FILE, 0o400, 0, 0, 0, 0, device.size, target="", xattrs=()
        )
        super().__init__(Nodes([entry]), size=device.size)
        self._image, self._device = image, device

    def read(self, node: Node, room: memoryview, offset: int) -> tuple[int, Rest | None]:
        """A part of the device; see :meth:`Tree.read`."""
        if node.entry is None:
            raise FuseError(errno.EISDIR)
        device = self._device
        end = max(offset, min(offset + len(room), device.size))
        known = device.computed[offset:end]
        room[: len(known)] = known
        at = offset + len(known)
        for start, entry in device.files(at, end):
            if at < start:
                room[at - offset : start - offset] = bytes(start - at)
                at = start
            at += self._image.pread_into(entry, room[at - offset : end - offset], at - start)
        room[at - offset : end - offset] = bytes(end - at)
        return end - offset, None
