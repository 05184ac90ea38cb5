"""One layer: unpacked to a plain archive, seen to be the right one, and its members listed.

The archive's members are read with `tarfile`, which ends at a header that it can't read as if the
archive did; that is closed here.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, cast

from casemate.errors import MalformedError
from casemate.image.archives import opened_tar, tar_members
from casemate.image.oci.manifest import Layer
from casemate.image.oci.ocicrypt import DecryptedLayer, Key, open_layer
from casemate.image.oci.store import MAX_WINDOW, Store, check_digest, too_large
from casemate.image.tree import MAX_PATH, FilePart
from casemate.image.writing import write_all, writing

_PIECE = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}


class MemberKind(StrEnum):
    """What a member of a layer is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    HARDLINK = "hardlink"
    OTHER = "device, pipe or socket"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A member of a layer.

    Args:
        path: relative, without ``.`` and empty parts.
        kind: what it is.
        mode: permission bits.
        uid: owner.
        gid: group.
        mtime: whole seconds since 1970; never negative.
        size: of a file's content.
        target: a symbolic link's text, or the path that a hard link shares.
        content: where a file's content is.
        xattrs: extended attributes that are kept.
    """

    path: str
    kind: MemberKind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    target: str = ""
    content: FilePart | None = None
    xattrs: tuple[tuple[str, bytes], ...] = ()


def unpack(
    store: Store, layer: Layer, destination: Path, *, limit: int, keys: tuple[Key, ...] = ()
) -> int:
    """Write a layer's archive without its compression.

    Args:
        store: where the layer lies.
        layer: which.
        destination: a new file.
        limit: how many bytes it may become.
        keys: private keys, for an encrypted one.

    Returns:
        How many bytes it became.

    Raises:
        UsageError: ``container.too-large``, ``container.encrypted``, ``image.unwritable``.
        MalformedError: ``container.compression``, ``container.missing``.
        NotGenuineError: ``container.changed`` where a digest isn't the one that is named.
    """
    plain, written = hashlib.sha256(), 0
    with store.open(layer.name) as raw, destination.open("xb", buffering=0) as output:
        hashed = _Hashed(raw)
        decrypted = None
        if layer.sealing is not None:
            key = open_layer(layer.sealing, keys)
            decrypted = DecryptedLayer(cast("IO[bytes]", hashed), key, layer.sealing)
        try:
            with _plain(decrypted or hashed, layer) as source:
                while piece := source.read(_PIECE):
                    written += len(piece)
                    if written > limit:
                        raise too_large()
                    plain.update(piece)
                    with writing(destination):
                        write_all(output.fileno(), piece)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _malformed("compression", str(error)[:80]) from error
        # What was written counts for nothing until all of these hold.
        if decrypted is not None:
            decrypted.finish()
        hashed.finish()
    if layer.digest is not None:
        check_digest("a layer", layer.digest, hashed.digest())
    check_digest("a layer's content", layer.diff_id, plain.digest())
    return written


class _Hashed(io.RawIOBase):
    """Hashes what is read through it."""

    def __init__(self, raw: IO[bytes]) -> None:
        super().__init__()
        self._raw = raw
        self._hash = hashlib.sha256()
        self._ahead = b""

    def readable(self) -> bool:
        return True

    def peek(self, size: int) -> bytes:
        self._ahead = self._raw.read(size)
        self._hash.update(self._ahead)
        return self._ahead

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        data, self._ahead = self._ahead[: len(view)], self._ahead[len(view) :]
        if not data:
            data = self._raw.read(len(view))
            self._hash.update(data)
        view[: len(data)] = data
        return len(data)

    def finish(self) -> None:
        """Read what decompression left."""
        while piece := self._raw.read(_PIECE):
            self._hash.update(piece)

    def digest(self) -> bytes:
        return self._hash.digest()


@contextmanager
def _plain(source: _Hashed | DecryptedLayer, layer: Layer) -> Iterator[IO[bytes]]:
    compression = layer.compression
    if compression is None and isinstance(source, _Hashed):
        head = source.peek(4)
        found = (name for magic, name in _MAGIC.items() if head.startswith(magic))
        compression = next(found, "")
    if compression == "gzip":
        with gzip.GzipFile(fileobj=cast("IO[bytes]", source), mode="rb") as file:
            yield cast("IO[bytes]", file)
    elif compression == "zstd":
        import zstandard

        try:
            decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
            with decompressor.stream_reader(
                cast("IO[bytes]", source), read_across_frames=True, closefd=False
            ) as zst:
                yield cast("IO[bytes]", zst)
        except zstandard.ZstdError as error:
            raise _malformed("compression", str(error)[:80]) from error
    else:
        yield cast("IO[bytes]", io.BufferedReader(source, _PIECE))


def members(archive: Path) -> Iterator[Member]:
    """The members of a plain archive, in its order.

    Raises:
        MalformedError: ``container.layer``.
    """
    size = archive.stat().st_size
    with archive.open("rb") as file:
        try:
            with opened_tar(file, _malformed) as tar:
                for info in tar_members(tar, _malformed):
                    if (member := _member(info, archive)) is not None:
                        if info.offset_data + member.size > size:
                            raise _malformed("archive", "an end within a file")
                        yield member
                _check_end(file, tar.offset)
        except tarfile.ReadError as error:
            if size:  # nothing at all is an archive of nothing
                raise _malformed("archive", str(error)[:80]) from error
        except (tarfile.TarError, ValueError, OverflowError, EOFError, KeyError) as error:
            raise _malformed("archive", f"{type(error).__name__}: {error}"[:120]) from error


def _member(info: tarfile.TarInfo, archive: Path) -> Member | None:
    path = _path(info.name)
    if not path:  # the root itself
        return None
    kind, size, target, content = MemberKind.OTHER, 0, "", None
    if info.issym():
        # Longer ones can't be sealed, and following them would take for ever.
        if len(info.linkname) > MAX_PATH:
            raise _malformed("link", f"one of {len(info.linkname)} characters")
        kind, target = MemberKind.SYMLINK, info.linkname
    elif info.islnk():
        kind, target = MemberKind.HARDLINK, _path(info.linkname)
    elif info.isdir():
        kind = MemberKind.DIRECTORY
    elif info.issparse():
        raise _malformed("member", f"{path[:80]}, a sparse file")
    elif info.isreg():
        kind, size = MemberKind.FILE, info.size
        content = FilePart(archive, info.offset_data)
    return Member(
        path=path, kind=kind, mode=info.mode & 0o7777, uid=info.uid, gid=info.gid,
        mtime=max(int(info.mtime), 0), size=size, target=target, content=content,
        xattrs=() if kind is MemberKind.HARDLINK else _xattrs(info),
    )  # fmt: skip


def _path(name: str) -> str:
    if len(name) > 2 * MAX_PATH:  # "./" and "//" in it don't count
        raise _malformed("path", f"one of {len(name)} characters")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _malformed("path", f"{name[:80]}, which leads out of the image")
    return "/".join(parts)


def _xattrs(info: tarfile.TarInfo) -> tuple[tuple[str, bytes], ...]:
    prefix = "SCHILY.xattr."
    found = {
        name.removeprefix(prefix): value.encode("utf-8", "surrogateescape")
        for name, value in info.pax_headers.items()
        if name.startswith((f"{prefix}user.", f"{prefix}security.capability"))
    }
    return tuple(sorted(found.items()))


def _check_end(file: IO[bytes], position: int) -> None:
    """Nothing but zeros may follow what was read as the last member."""
    file.seek(position)
    while piece := file.read(_PIECE):
        if piece.count(0) != len(piece):
            raise _malformed("archive", "a header that can't be read, and more after it")


def _malformed(field: str, got: str) -> MalformedError:
    return MalformedError(
        "container.layer",
        f"a layer of the container image has an unexpected {field}",
        field=field,
        expected="a tar archive as the OCI image format has it",
        got=got,
    )
