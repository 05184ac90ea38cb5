"""Where a container image's parts lie: a folder in OCI layout, or an archive of one or of Docker's.

Every blob is named by the SHA-256 of its bytes, and isn't taken before it has that digest.

Source: OCI Image Format Specification 1.1, "Image Layout Specification"; Docker Image
Specification 1.2, "Combined Image JSON + Filesystem Changeset Format".
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Protocol, cast

from casemate.errors import MalformedError, NotGenuineError, UsageError
from casemate.image.archives import opened_tar, tar_members
from casemate.image.writing import write_all, writing

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MAX_DOCUMENT = 4 << 20
MAX_WINDOW = 1 << 27
_PIECE = 1 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Store(Protocol):
    """Files of an image by their names."""

    def names(self) -> frozenset[str]:
        """The names of files at the top; those in folders may be missing."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file.

        Raises:
            MalformedError: ``container.missing``.
        """


class FolderStore:
    """A folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> frozenset[str]:
        """The names of files at the top."""
        return frozenset(entry.name for entry in self._path.iterdir())

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the folder, and none outside it."""
        path = self._path / name
        if not path.is_file() or not path.resolve().is_relative_to(self._path.resolve()):
            raise missing(name)
        return path.open("rb")


class ArchiveStore:
    """A tar archive."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        # By name: tar itself puts "./" before each where it is given a folder. The last one holds.
        members = tar_members(archive, _malformed)
        self._members = {member.name.removeprefix("./"): member for member in members}

    def names(self) -> frozenset[str]:
        """The names of its members."""
        return frozenset(self._members)

    def open(self, name: str) -> IO[bytes]:
        """Open a member; a link within the archive is followed."""
        try:
            file = self._archive.extractfile(self._members[name])
        except (KeyError, tarfile.TarError, RecursionError) as error:  # links in a circle
            raise missing(name) from error
        if file is None:
            raise missing(name)
        return file


@contextmanager
def open_store(path: Path, *, limit: int) -> Iterator[Store]:
    """Open a folder or an archive, which may be compressed as a whole.

    Args:
        path: the folder or the archive.
        limit: how many bytes a compressed archive may become.

    Raises:
        UsageError: ``container.source`` where it is neither, ``container.too-large``,
            ``image.unwritable`` where it can't be unpacked.
    """
    if path.is_dir():
        yield FolderStore(path)
        return
    with ExitStack() as stack:
        try:
            file = stack.enter_context(_plain(path, limit))
            archive = stack.enter_context(opened_tar(file, _malformed))
            store = ArchiveStore(archive)
        except (tarfile.ReadError, OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise _no_image(path, error) from error
        try:
            yield store
        except tarfile.ReadError as error:  # it ends within a part
            raise _no_image(path, error) from error


def _no_image(path: Path, error: Exception) -> UsageError:
    return UsageError(
        "container.source",
        f"{path} is no container image",
        field="source",
        expected="a folder in OCI layout, or a tar archive of an image",
        got=str(error)[:120],
        remedy="Make one with `skopeo copy … oci:DIR` or `docker save`.",
    )


@contextmanager
def _plain(path: Path, limit: int) -> Iterator[IO[bytes]]:
    """An archive without compression: the file itself, or a nameless one that holds what it was."""
    with path.open("rb") as file:
        head = file.read(6)
        file.seek(0)
        opener = next((o for magic, o in _COMPRESSED.items() if head.startswith(magic)), None)
        if opener is None:
            yield file
            return
        with opener(file) as packed, _temporary_file() as plain:
            while piece := packed.read(_PIECE):
                limit -= len(piece)
                if limit < 0:
                    raise too_large()
                with writing(Path(tempfile.gettempdir())):
                    write_all(plain.fileno(), piece)
            plain.seek(0)
            yield cast("IO[bytes]", io.BufferedReader(plain))


def _temporary_file() -> io.FileIO:
    with writing(Path(tempfile.gettempdir())):
        return tempfile.TemporaryFile(buffering=0)


class _Zstd(io.RawIOBase):
    """A stream of zstd whose mistakes are errors of reading."""

    def __init__(self, file: IO[bytes]) -> None:
        import zstandard

        super().__init__()
        self._error = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._stream = decompressor.stream_reader(file, read_across_frames=True, closefd=False)

    def read(self, size: int = -1, /) -> bytes:
        try:
            return self._stream.read(size)
        except self._error as error:
            raise OSError(str(error)) from error


_COMPRESSED: dict[bytes, Callable[[IO[bytes]], IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast("IO[bytes]", gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast("IO[bytes]", bz2.BZ2File(file)),
    b"\xfd7zXZ\0": lambda file: cast("IO[bytes]", lzma.LZMAFile(file)),  # noqa: SIM115  its caller
    b"\x28\xb5\x2f\xfd": lambda file: cast("IO[bytes]", _Zstd(file)),
}


def _malformed(field: str, got: str) -> MalformedError:
    return MalformedError(
        "container.source",
        f"the archive of the container image has an unexpected {field}",
        field=field,
        expected="a tar archive as container tools write it",
        got=got,
    )


def too_large() -> UsageError:
    """More than it may unpack to."""
    return UsageError(
        "container.too-large",
        "the container image unpacks to more than it may",
        field="layers",
        expected="no more bytes than --max-size in all",
        got="more",
        remedy="Raise --max-size if you trust the image.",
    )


def read_document(store: Store, name: str) -> bytes:
    """A small file, whole.

    Raises:
        MalformedError: ``container.missing``, ``container.size``.
    """
    with store.open(name) as file:
        data = file.read(MAX_DOCUMENT + 1)
    if len(data) > MAX_DOCUMENT:
        raise MalformedError(
            "container.size",
            f"{name} of the container image is too large",
            field=name,
            expected=f"at most {MAX_DOCUMENT} bytes",
            got="more",
        )
    return data


def blob_name(digest: str) -> str:
    """Where an OCI layout keeps a blob.

    Raises:
        MalformedError: ``container.digest`` where it isn't a SHA-256.
    """
    if not _DIGEST.match(digest):
        raise MalformedError(
            "container.digest",
            "the container image names a part by something else than a SHA-256",
            field="digest",
            expected="sha256: and 64 hex digits",
            got=digest[:90],
        )
    return "blobs/" + digest.replace(":", "/", 1)


def check_digest(what: str, expected: str, got: bytes) -> None:
    """Hold bytes' SHA-256 against a name.

    Raises:
        NotGenuineError: ``container.changed``.
    """
    if (found := f"sha256:{got.hex()}") != expected:
        raise NotGenuineError(
            "container.changed",
            f"{what} isn't what the image says",
            field=what,
            expected=expected,
            got=found,
            remedy="Fetch the image again.",
        )


def read_blob(store: Store, digest: str, what: str) -> bytes:
    """A small blob, whole, and seen to be the one that is named.

    Raises:
        MalformedError: ``container.*``; NotGenuineError: ``container.changed``.
    """
    data = read_document(store, blob_name(digest))
    check_digest(what, digest, hashlib.sha256(data).digest())
    return data


def missing(name: str) -> MalformedError:
    """A part that isn't there."""
    return MalformedError(
        "container.missing",
        "a part of the container image is missing",
        field=name[:120],
        expected="a file of that name",
        got="none",
        remedy="Copy the image again, whole.",
    )
