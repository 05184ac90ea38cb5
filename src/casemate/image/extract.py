"""Extract a sealed image into an empty directory, fast, and without following anything.

The tree is built from the table of contents, whose paths are plain, unique, and lie in
directories of the same table. On top of that every step is taken relative to an open directory
and refuses symbolic links, so that a second process that writes into the destination gains
nothing either.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from casemate.errors import UsageError
from casemate.image.buffers import page_buffer
from casemate.image.format import CHUNK_SIZE, TocEntry
from casemate.image.reader import SealedImage
from casemate.image.storage import extracted_size, megabytes
from casemate.image.tree import EntryKind
from casemate.image.workers import Meter, Progress, Step, run_steps

_BATCH_CHUNKS = 32
_BATCH = _BATCH_CHUNKS * CHUNK_SIZE
_MAX_FOLDERS = 64
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_XATTRS = (errno.ENOTSUP, errno.EPERM, errno.EACCES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What was extracted.

    Args:
        entries: how many entries.
        size: bytes of content.
        without_attributes: paths whose extended attributes the destination didn't take.
    """

    entries: int
    size: int
    without_attributes: tuple[str, ...]


def extract(
    image: SealedImage,
    destination: Path,
    *,
    subset: Iterable[str] | None = None,
    threads: int = 2,
    progress: Progress | None = None,
    restore_owner: bool = False,
) -> Extracted:
    """Write an image's tree into a directory: modes, times, links and attributes.

    Args:
        image: an open image.
        destination: a directory that is empty or doesn't exist yet. What is written there is
            plaintext: it belongs on memory-backed storage.
        subset: paths to extract, with what lies under them and the directories above them; None
            for all.
        threads: how many to use.
        progress: called with (bytes done, bytes to do).
        restore_owner: give every entry its owner and group, and set-user-id bits and
            capabilities where it has them. Needs root. Without it, entries belong to the caller,
            and those are left out.

    Raises:
        NotGenuineError, MalformedError, UnavailableError: as reading does; what was written until
            then is removed.
        UsageError: ``image.destination`` where the directory isn't empty or can't be written,
            ``image.no-entry`` for a path in ``subset`` that the image hasn't.
    """
    chosen = _chosen(image, subset)
    made = not os.path.lexists(destination)
    try:
        destination.mkdir(mode=0o700, exist_ok=True)
        root = os.open(destination, _FOLDER)
    except OSError as error:
        raise unwritable(destination, error) from error
    try:
        _require_alone(destination, root)
        _require_empty(destination, root)
        _require_space(destination, root, chosen)
        try:
            return _Extraction(image, root, chosen, restore_owner).run(threads, progress)
        except BaseException as error:
            empty(destination)
            if isinstance(error, OSError):
                raise unwritable(destination, error, restore_owner=restore_owner) from error
            raise
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                destination.rmdir()
        raise
    finally:
        os.close(root)


def _require_alone(destination: Path, root: int) -> None:
    """Two that extract here at once would each remove what the other wrote, when one fails."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until it is closed
    except BlockingIOError as error:
        raise UsageError(
            "image.destination",
            f"another program is extracting to {destination}",
            field=str(destination),
            expected="a directory that nobody else writes to",
            got="a lock on it",
            remedy="Choose another directory, or wait for the other program.",
        ) from error
    except OSError:  # a file system without locks
        return


def _require_empty(destination: Path, root: int) -> None:
    if os.listdir(root):
        raise not_empty(destination)


def _require_space(destination: Path, root: int, chosen: tuple[TocEntry, ...]) -> None:
    """What the table of contents declares must fit before anything of it is written.

    A reader accepts no content beyond the payload and none twice, so a tree is never larger than
    its image file.
    """
    space = os.fstatvfs(root)
    needed, free = extracted_size(chosen), space.f_bavail * space.f_frsize
    if space.f_blocks and needed > free:
        raise UsageError(
            "image.destination",
            f"{destination} hasn't the space for what is to be extracted",
            field=str(destination),
            expected=megabytes(needed),
            got=f"{megabytes(free)} free",
            remedy="Make the memory file system larger, or extract a part with --only.",
        )


def _chosen(image: SealedImage, subset: Iterable[str] | None) -> tuple[TocEntry, ...]:
    if subset is None:
        return tuple(image)
    wanted = {path.strip("/") for path in subset}
    names = {image.entry(path).path for path in wanted}
    for entry in image:
        parts = entry.path.split("/")
        if any("/".join(parts[:n]) in wanted for n in range(1, len(parts) + 1)):
            names.add(entry.path)
    names |= {image.content_of(image.entries[name]).path for name in tuple(names)}
    for name in tuple(names):
        while name := name.rpartition("/")[0]:
            names.add(name)
    return tuple(entry for entry in image if entry.path in names)


@dataclass(frozen=True, slots=True)
class _Slice:
    """A range of the payload, and the files that lie in it: many small ones, or part of one."""

    start: int
    end: int
    files: tuple[TocEntry, ...]


class _Extraction:
    def __init__(
        self, image: SealedImage, root: int, chosen: tuple[TocEntry, ...], restore_owner: bool
    ) -> None:
        self._image = image
        self._root = root
        self._chosen = chosen
        self._restore_owner = restore_owner
        self._without_attributes: list[str] = []

    def run(self, threads: int, progress: Progress | None) -> Extracted:
        """Directories, then content on all threads, then links, then what content would undo."""
        files = self._of_kind(EntryKind.FILE)
        size = sum(entry.size for entry in files)
        with _Folders(self._root) as folders:
            for entry in self._of_kind(EntryKind.DIRECTORY):
                folder, name = folders.place(entry.path)
                os.mkdir(name, 0o700, dir_fd=folder)
            large = [entry for entry in files if entry.size > _BATCH]
            for entry in large:
                folder, name = folders.place(entry.path)
                descriptor = os.open(name, _NEW, 0o600, dir_fd=folder)
                os.truncate(descriptor, entry.size)
                os.close(descriptor)
            slices = _slices(files)
            meter = Meter(size, progress)
            run_steps(len(slices), threads, meter, lambda: self._writer(slices))
            for entry in self._of_kind(EntryKind.SYMLINK):
                self._symlink(folders, entry)
            for entry in self._of_kind(EntryKind.HARDLINK):
                self._hard_link(folders, entry)
            for entry in large:
                folder, name = folders.place(entry.path)
                self._finish(folder, name, os.O_RDONLY, entry)
            for entry in reversed(self._of_kind(EntryKind.DIRECTORY)):
                folder, name = folders.place(entry.path)
                self._finish(folder, name, _FOLDER, entry)
        return Extracted(
            entries=len(self._chosen),
            size=size,
            without_attributes=tuple(sorted(self._without_attributes)),
        )

    def _of_kind(self, kind: EntryKind) -> list[TocEntry]:
        return [entry for entry in self._chosen if entry.kind is kind]

    @contextmanager
    def _writer(self, slices: list[_Slice]) -> Iterator[Step]:
        buffer = page_buffer(_BATCH)
        with _Folders(self._root) as folders:

            def step(index: int) -> int:
                part = slices[index]
                data = buffer[: part.end - part.start]
                self._image.read_payload_into(data, part.start)
                if part.files[0].size > _BATCH:
                    entry = part.files[0]
                    folder, name = folders.place(entry.path)
                    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                    descriptor = os.open(name, flags, dir_fd=folder)
                    try:
                        _write(descriptor, data, part.start - entry.offset)
                    finally:
                        os.close(descriptor)
                    return len(data)
                return sum(self._small(folders, entry, data, part) for entry in part.files)

            yield step

    def _small(self, folders: _Folders, entry: TocEntry, data: memoryview, part: _Slice) -> int:
        folder, name = folders.place(entry.path)
        descriptor = os.open(name, _NEW, 0o600, dir_fd=folder)
        try:
            at = entry.offset - part.start
            _write(descriptor, data[at : at + entry.size], 0)
            self._attributes(descriptor, entry)
        finally:
            os.close(descriptor)
        return entry.size

    def _hard_link(self, folders: _Folders, entry: TocEntry) -> None:
        folder, old = folders.place(entry.target)
        source = os.dup(folder)
        try:
            folder, name = folders.place(entry.path)
            os.link(old, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(source)

    def _symlink(self, folders: _Folders, entry: TocEntry) -> None:
        folder, name = folders.place(entry.path)
        os.symlink(entry.target, name, dir_fd=folder)
        if self._restore_owner:
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
        os.utime(name, (entry.mtime, entry.mtime), dir_fd=folder, follow_symlinks=False)

    def _finish(self, folder: int, name: str, flags: int, entry: TocEntry) -> None:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            self._attributes(descriptor, entry)
        finally:
            os.close(descriptor)

    def _attributes(self, descriptor: int, entry: TocEntry) -> None:
        mode = entry.mode
        if self._restore_owner:
            os.chown(descriptor, entry.uid, entry.gid)
        else:
            mode &= ~0o6000  # set-user-id of somebody else's choosing, on files of the caller's
        for attribute, value in entry.xattrs:
            if attribute.startswith("security.") and not self._restore_owner:
                continue  # a file's capabilities raise rights as set-user-id does
            try:
                os.setxattr(descriptor, attribute, value)
            except OSError as error:
                if error.errno not in _NO_XATTRS:
                    raise
                self._without_attributes.append(entry.path)
        os.chmod(descriptor, mode)
        os.utime(descriptor, (entry.mtime, entry.mtime))


def _slices(files: list[TocEntry]) -> list[_Slice]:
    """Cut the work: small files in groups, large ones at borders of chunks."""
    slices: list[_Slice] = []
    group: list[TocEntry] = []

    def close_group() -> None:
        if group:
            end = max(entry.offset + entry.size for entry in group)
            slices.append(_Slice(group[0].offset, end, tuple(group)))
            group.clear()

    for entry in files:
        end = entry.offset + entry.size
        if entry.size > _BATCH:
            close_group()
            position = entry.offset
            while position < end:
                border = min((position // CHUNK_SIZE + _BATCH_CHUNKS) * CHUNK_SIZE, end)
                slices.append(_Slice(position, border, (entry,)))
                position = border
            continue
        if group and end - group[0].offset > _BATCH:
            close_group()
        group.append(entry)
    close_group()
    return slices


class _Folders:
    """Open directories below a root, each reached from its parent without following links."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def place(self, path: str) -> tuple[int, str]:
        """The open directory that ``path`` lies in, good until the next call, and its name."""
        folder, _, name = path.rpartition("/")
        return self._descriptor(folder), name

    def _descriptor(self, path: str) -> int:
        if not path:
            return self._root
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        parent, _, name = path.rpartition("/")
        descriptor = os.open(name, _FOLDER, dir_fd=self._descriptor(parent))
        self._open[path] = descriptor
        if len(self._open) > _MAX_FOLDERS:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


def _write(descriptor: int, data: memoryview, position: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, position)
        data, position = data[count:], position + count


def empty(destination: Path) -> None:
    """Remove everything in a directory, following no link."""
    for item in destination.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item, ignore_errors=True)
        else:
            item.unlink(missing_ok=True)


def not_empty(destination: Path) -> UsageError:
    """Something lies where a tree is to be."""
    return UsageError(
        "image.destination",
        f"{destination} is not empty",
        field=str(destination),
        expected="an empty directory, or a name that is free",
        got="a directory with entries",
        remedy="Choose another directory, or remove what is in it.",
    )


def unwritable(destination: Path, error: OSError, *, restore_owner: bool = False) -> UsageError:
    """The system doesn't let a tree be put there."""
    remedy = "Check permissions and the space that is left; memory-backed storage is limited."
    if restore_owner and error.errno == errno.EPERM:
        remedy = "Give files to others as root, or do without restoring owners."
    return UsageError(
        "image.destination",
        f"{destination} can't be written",
        # Most of it is done by descriptor, which says nothing.
        field=error.filename if isinstance(error.filename, str) else str(destination),
        expected="a directory of one's own with enough space",
        got=os.strerror(error.errno or 0),
        remedy=remedy,
    )
