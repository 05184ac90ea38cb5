"""Mount a sealed image read-only by speaking the kernel's FUSE protocol (docs/adr/0004).

Nothing is decrypted before it is asked for, and what was is kept by the kernel's page cache. A
chunk that was changed is an I/O error to whoever reads it, and is reported by name.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

from casemate.errors import CasemateError, UnavailableError
from casemate.image import fuse_wire as wire
from casemate.image.buffers import page_buffer
from casemate.image.fuse_servers import DEVICE, Requests, Servers, Storer, Told
from casemate.image.fuse_tree import ImageTree, Tree
from casemate.image.fuse_wire import FuseError, Op, Request
from casemate.image.mounted_image import MountedImage
from casemate.image.mounting import (
    MNT_DETACH,
    MNT_FORCE,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    mount,
    umount,
)
from casemate.image.nodes import Node
from casemate.image.reader import SealedImage
from casemate.image.tree import EntryKind

_CAP_SYS_ADMIN = 21
_MOST_SERVERS = 4
_START_SECONDS = 10.0
_PATIENCE_SECONDS = 300
_UNKNOWN = frozenset({Op.OPEN, Op.OPENDIR, Op.ACCESS})  # ENOSYS: "don't ask, go ahead"
_WRITING = frozenset({4, 6, 8, 9, 10, 11, 12, 13, 16, 21, 24, 35, 43, 45, 51})
_LOG = logging.getLogger(__name__)

OnError = Callable[[CasemateError], None]


def fuse_available() -> str | None:
    """Why an image can't be mounted here, or None where nothing speaks against it.

    Does not check: what only the attempt shows, such as a seccomp profile that forbids mount(2).
    """
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE} can't be opened: {os.strerror(error.errno or 0)}"
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff" and not int(value.strip(), 16) >> _CAP_SYS_ADMIN & 1:
            return "this process may not mount: it lacks CAP_SYS_ADMIN in its user namespace"
    return None


class FuseMount(MountedImage):
    """A sealed image, mounted through FUSE.

    Servers answer for it: processes forked in :meth:`start`, which end when this one does.

    Args:
        image: an open image; it must stay open until :meth:`stop`.
        mountpoint: an existing directory.
        on_error: called, from another thread, with every error that made a read fail; by default
            it is logged.
        read_ahead: bytes that the kernel reads ahead, where it lets itself be told.
        servers: how many serve; one a processor by default, at most four.
        patience: seconds that a request may take before the kernel ends the mount, 15 at least
            and 15 more until it looks; Linux 6.14 or later, others wait for ever.
        tree: what is shown, by default the image's own.
    """

    through = "FUSE"

    def __init__(
        self,
        image: SealedImage,
        mountpoint: Path,
        *,
        on_error: OnError | None = None,
        read_ahead: int = 4 * wire.MAX_READ,
        servers: int | None = None,
        patience: int = _PATIENCE_SECONDS,
        tree: Tree | None = None,
    ) -> None:
        self._image = image
        self._mountpoint = mountpoint
        self._on_error = on_error or _log_error
        self._read_ahead = read_ahead
        self._wanted = servers or _servers_here()
        self._patience = patience
        self._tree = tree or ImageTree(image)
        self._servers: Servers | None = None
        self._mounted = False

    def start(self) -> None:
        """Mount, and have it served. Returns once the mount answers.

        Raises:
            UnavailableError: ``image.mount`` where this machine or this process may not mount.
        """
        place = self._mountpoint
        try:
            device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise _no_mount(place, f"{DEVICE}: {os.strerror(error.errno or 0)}") from error
        try:
            _mount(device, place)
        except OSError as error:
            os.close(device)
            raise _no_mount(place, f"mount: {os.strerror(error.errno or 0)}") from error
        self._mounted = True
        with contextlib.ExitStack() as undo:
            undo.callback(self.stop)
            try:
                self._servers = Servers(
                    self._wanted,
                    device,
                    keep=(self._image.fileno(),),
                    serve=self._serve,
                    on_error=self._on_error,
                )
                number = self._servers.start(_START_SECONDS)
            except (OSError, RuntimeError) as error:  # no descriptors, processes, threads
                raise _no_mount(place, str(error)) from error
            if number is None:
                raise _no_mount(place, f"no server answered within {_START_SECONDS:.0f} seconds")
            if number:
                raise _no_mount(place, "the kernel's FUSE protocol is older than 7.31")
            undo.pop_all()
        _raise_read_ahead(place, self._read_ahead)

    def stop(self) -> None:
        """Unmount, also where files in it are still open: they give errors from then on."""
        if not self._mounted:
            return
        self._mounted = False
        _unmount(self._mountpoint)
        if self._servers is not None:
            self._servers.end()

    def wait(self) -> None:
        """Return when the mount is gone, whoever unmounted it, or nobody serves it any more."""
        if self._servers is not None:
            self._servers.wait()

    def is_served(self) -> bool:
        """Whether anybody answers for it."""
        return self._servers is not None and self._servers.serve()

    def _serve(self, descriptor: int, storer: Storer, told: Told) -> None:
        """In a process of its own."""
        self._image.renew_locks()
        server = _Server(
            self._image, self._tree, descriptor, storer, told.error, patience=self._patience
        )
        requests = Requests(descriptor)
        while (request := requests.next()) is not None:
            number = server.answer(request)
            if number is not None:
                told.init(number)


class _Server:
    """Answers the kernel's requests on one descriptor."""

    def __init__(
        self,
        image: SealedImage,
        tree: Tree,
        descriptor: int,
        storer: Storer,
        on_error: OnError,
        *,
        patience: int,
    ) -> None:
        self._image = image
        self._tree = tree
        self._descriptor = descriptor
        self._storer = storer
        self._patience = patience
        self._on_error = on_error
        head = wire.OUT_HEADER.size
        self._reply = page_buffer(head + wire.MAX_READ, head=head)

    def answer(self, data: memoryview) -> int | None:
        """Answer a request; an answer to INIT gives its error number, 0 where it went well."""
        request, body = wire.parse_request(data)
        if request.op in wire.UNANSWERED:
            return None
        number, length, reply = 0, 0, self._reply
        room = reply[wire.OUT_HEADER.size :]
        try:
            if request.op == Op.READ:
                length = self._read(request, body, room)
            else:
                value = self._handle(request, body)
                length = len(value)
                room[:length] = value
        except FuseError as error:
            number = error.number
        except CasemateError as error:
            number = errno.EIO
            self._on_error(error)
        except Exception:  # noqa: BLE001 - one failed request must not take the mount with it
            number = errno.EIO
            _LOG.exception("a request to the mount of %s failed", self._image.path)
        total = wire.OUT_HEADER.size + (0 if number else length)
        wire.OUT_HEADER.pack_into(reply, 0, total, -number, request.unique)
        try:
            os.write(self._descriptor, reply[:total])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED):
                raise  # those three: whoever asked has gone
        return number if request.op == Op.INIT else None

    def _read(self, request: Request, body: memoryview, room: memoryview) -> int:
        _handle, offset, size, *_ = wire.READ_IN.unpack_from(body)
        node = self._tree.node(request.node)
        length, rest = self._tree.read(node, room[: min(size, len(room))], offset)
        if rest is not None:
            self._storer.store(node.number, *rest)
        return length

    def _handle(self, request: Request, body: memoryview) -> bytes:
        op = request.op
        if op == Op.INIT:
            return wire.init_reply(body, patience=self._patience)
        if op == Op.STATFS:
            return wire.statfs_reply(self._tree.size, len(self._tree))
        if op == Op.DESTROY:
            return b""
        if op in _UNKNOWN:
            raise FuseError(errno.ENOSYS)
        if op in _WRITING:
            raise FuseError(errno.EROFS)
        node = self._tree.node(request.node)
        if op == Op.LOOKUP:
            return wire.entry_reply(self._tree.child(node, bytes(body).split(b"\0", 1)[0]))
        if op == Op.GETATTR:
            return wire.attributes_reply(node)
        if op == Op.READLINK:
            if node.entry is None or node.entry.kind is not EntryKind.SYMLINK:
                raise FuseError(errno.EINVAL)
            return node.entry.target.encode()
        if op in (Op.READDIR, Op.READDIRPLUS):
            _handle, offset, size, *_ = wire.READ_IN.unpack_from(body)
            names = self._tree.listing(node)
            room = min(size, wire.MAX_READ)
            return wire.directory_reply(names, offset, room, plus=op == Op.READDIRPLUS)
        if op in (Op.GETXATTR, Op.LISTXATTR):
            return self._attribute(op, node, body)
        raise FuseError(errno.ENOSYS)

    def _attribute(self, op: int, node: Node, body: memoryview) -> bytes:
        if not self._tree.has_attributes:
            raise FuseError(errno.ENOSYS)  # the kernel then stops asking
        size, _ = wire.GETXATTR_IN.unpack_from(body)
        attributes = dict(node.entry.xattrs) if node.entry is not None else {}
        if op == Op.LISTXATTR:
            return wire.sized_reply(b"".join(n.encode() + b"\0" for n in attributes), size)
        name = bytes(body[wire.GETXATTR_IN.size :]).split(b"\0", 1)[0]
        value = attributes.get(name.decode(errors="surrogateescape"))
        if value is None:
            raise FuseError(errno.ENODATA)
        return wire.sized_reply(value, size)


def _mount(descriptor: int, mountpoint: Path) -> None:
    options = f"fd={descriptor},rootmode={stat.S_IFDIR:o},user_id={os.geteuid()},"
    options += f"group_id={os.getegid()},default_permissions"
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    try:  # so that a workload under another user id can read too
        mount("casemate", mountpoint, "fuse.casemate", flags, options + ",allow_other")
    except PermissionError:
        mount("casemate", mountpoint, "fuse.casemate", flags, options)


def _unmount(mountpoint: Path) -> None:
    # MNT_FORCE ends the connection, so that nothing can wait for us any more; MNT_DETACH takes
    # the name away even while files are open.
    with contextlib.suppress(OSError):  # somebody else was first
        umount(mountpoint, MNT_FORCE | MNT_DETACH)


def _servers_here() -> int:
    return min(len(os.sched_getaffinity(0)), _MOST_SERVERS)


def _raise_read_ahead(mountpoint: Path, read_ahead: int) -> None:
    try:
        device = mountpoint.stat().st_dev
        name = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
        Path(name).write_text(str(read_ahead // 1024), encoding="ascii")
    except OSError:
        _LOG.debug("the kernel's read-ahead for %s can't be raised", mountpoint)


def _log_error(error: CasemateError) -> None:
    _LOG.error("%s [%s]", error, error.code)


def _no_mount(mountpoint: Path, got: str) -> UnavailableError:
    return UnavailableError(
        "image.mount",
        f"nothing can be mounted on {mountpoint}",
        field=str(mountpoint),
        expected="/dev/fuse and the right to mount (root, or a user and mount namespace)",
        got=got,
        remedy="Run where mounting is allowed, or extract the image to memory instead.",
    )
