"""Write a container image: trees become layers, in a folder in OCI layout or a Docker archive.

The same trees and settings give the same digests on any machine where layers aren't compressed:
what compressors put out changes with their version. Nothing has a time.

Source: OCI Image Format Specification 1.1; Docker Image Specification 1.2.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from casemate.image.oci.manifest import REF_NAME
from casemate.image.oci.ocicrypt import SUFFIX, Key, encrypt_layer
from casemate.image.oci.store import INDEX_TYPE, MANIFEST_TYPE
from casemate.image.payload import PayloadReader, lay_out
from casemate.image.tree import TreeEntry, normalised
from casemate.image.workers import Progress
from casemate.image.writing import writing

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
_GZIP, _LEVEL = "+gzip", 3
_EPOCH = "1970-01-01T00:00:00Z"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a container of an image is run.

    Args:
        entrypoint: the command line.
        command: arguments that a user may replace.
        environment: variables.
        working_directory: absolute.
        user: ``UID:GID``; empty for root.
        ports: TCP ports that it serves.
        labels: of the image.
        architecture: Go's name of it: ``amd64``.
    """

    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    environment: Mapping[str, str]
    working_directory: str = "/"
    user: str
    ports: tuple[int, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenImage:
    """An image that was written.

    Args:
        digest: of its manifest, ``sha256:…``.
        size: of its layers together, in bytes.
    """

    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blob:
    media_type: str
    digest: str
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)

    def descriptor(self) -> dict[str, object]:
        plain = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return {**plain, "annotations": dict(self.annotations)} if self.annotations else plain


def write_oci_layout(
    folder: Path,
    layers: Sequence[tuple[TreeEntry, ...]],
    settings: RunSettings,
    *,
    tag: str,
    recipients: tuple[Key, ...] = (),
    compress: bool = False,
    progress: Progress | None = None,
) -> WrittenImage:
    """Write an image into a folder in OCI layout, beside those that are there under other tags.

    Args:
        folder: made where it isn't there.
        layers: trees, from the lowest up.
        settings: how it is run.
        tag: its name in the layout; whatever had it before loses it.
        recipients: public keys of those who may decrypt the layers (ocicrypt); where there are
            any, each time gives other bytes.
        compress: with gzip; what is encrypted can't be compressed later.
        progress: called with (bytes of a layer's archive done, bytes in all).

    Raises:
        UsageError: ``image.tree`` for what can't be in a tree, ``image.unwritable``.
    """
    with writing(folder):
        blobs = folder / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        written, diff_ids = [], []
        for layer in layers:
            plain = hashlib.sha256()
            archive = _archive(layer, plain.update, compress=compress, progress=progress)
            written.append(_layer(blobs, archive, compress=compress, recipients=recipients))
            diff_ids.append(f"sha256:{plain.hexdigest()}")
        config = _put(blobs, CONFIG_TYPE, _config(diff_ids, settings))
        manifest = _put(
            blobs,
            MANIFEST_TYPE,
            _json(
                {
                    "schemaVersion": 2,
                    "mediaType": MANIFEST_TYPE,
                    "config": config.descriptor(),
                    "layers": [layer.descriptor() for layer in written],
                    "annotations": dict(settings.labels),
                }
            ),
        )
        (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
        _index(folder, manifest, tag)
        return WrittenImage(digest=manifest.digest, size=sum(layer.size for layer in written))


def write_docker_archive(file: Path, layout: Path, tags: Collection[str]) -> None:
    """Write images of a folder in OCI layout as ``docker load`` reads them: one tar archive.

    Args:
        file: replaced where it is there.
        layout: as `write_oci_layout` wrote it.
        tags: which images; the tags there are the names here.

    Raises:
        UsageError: ``image.unwritable``; of an archive that can't be written nothing stays.
    """
    blobs = layout / "blobs" / "sha256"
    top: list[dict[str, str | list[str]]] = []
    wanted: dict[str, str] = {}
    for each in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if each["annotations"][REF_NAME] not in tags:
            continue
        manifest = json.loads((blobs / _digits(each["digest"])).read_bytes())
        config = _digits(manifest["config"]["digest"])
        layers = [_digits(layer["digest"]) for layer in manifest["layers"]]
        wanted |= {f"{config}.json": config} | {f"{name}.tar": name for name in layers}
        top.append(
            {
                "Config": f"{config}.json",
                "RepoTags": [each["annotations"][REF_NAME]],
                "Layers": [f"{name}.tar" for name in layers],
            }
        )
    part = file.with_name(f".{file.name}.part")
    try:
        with writing(file):
            with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
                for name, blob in sorted(wanted.items()):
                    _add(archive, name, (blobs / blob).open("rb"))
                _add(archive, "manifest.json", io.BytesIO(_json(top)))
            part.replace(file)
    except BaseException:
        with suppress(OSError):  # why it failed says more
            part.unlink()
        raise


def _archive(
    entries: tuple[TreeEntry, ...],
    take: Callable[[bytearray], None],
    *,
    compress: bool,
    progress: Progress | None,
) -> Iterator[bytes | bytearray]:
    """A layer's archive in pieces; ``take`` gets what they are without compression."""
    layout = lay_out(normalised(entries))
    packed = io.BytesIO()
    with ExitStack() as stack:
        reader = stack.enter_context(PayloadReader(layout))
        packer = gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=_LEVEL, mtime=0)
        for start in range(0, layout.size, _PIECE):
            piece = bytearray(min(_PIECE, layout.size - start))
            reader.fill(memoryview(piece), start)
            take(piece)
            if compress:
                packer.write(piece)
                yield packed.getvalue()
                packed.seek(0)
                packed.truncate()
            else:
                yield piece
            if progress is not None:
                progress(start + len(piece), layout.size)
        packer.close()
    if compress:
        yield packed.getvalue()


def _layer(
    blobs: Path,
    archive: Iterator[bytes | bytearray],
    *,
    compress: bool,
    recipients: tuple[Key, ...],
) -> _Blob:
    """Put an archive among the blobs, encrypted where there's somebody to encrypt it for."""
    kind = LAYER_TYPE + (_GZIP if compress else "")
    part = blobs / ".part"
    annotations: Mapping[str, str] = {}
    with part.open("wb") as output:
        if recipients:  # what is to be encrypted goes nowhere before it is
            made = encrypt_layer(archive, output, recipients)
            kind, digest, annotations = kind + SUFFIX, made.digest, made.annotations
        else:
            written = hashlib.sha256()
            for piece in archive:
                written.update(piece)
                output.write(piece)
            digest = f"sha256:{written.hexdigest()}"
        size = output.tell()
    part.replace(blobs / _digits(digest))
    return _Blob(media_type=kind, digest=digest, size=size, annotations=annotations)


def _config(diff_ids: Sequence[str], settings: RunSettings) -> bytes:
    return _json(
        {
            "architecture": settings.architecture,
            "os": "linux",
            "created": _EPOCH,
            "config": {
                "Entrypoint": list(settings.entrypoint),
                "Cmd": list(settings.command),
                "Env": [f"{name}={value}" for name, value in sorted(settings.environment.items())],
                "User": settings.user,
                "WorkingDir": settings.working_directory,
                "ExposedPorts": {f"{port}/tcp": {} for port in settings.ports},
                "Labels": dict(settings.labels),
                "StopSignal": "SIGTERM",
            },
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
            "history": [{"created": _EPOCH, "created_by": "casemate"} for _ in diff_ids],
        }
    )


def _put(blobs: Path, media_type: str, data: bytes) -> _Blob:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return _Blob(media_type=media_type, digest=f"sha256:{digest}", size=len(data))


def _index(folder: Path, manifest: _Blob, tag: str) -> None:
    path = folder / "index.json"
    others = json.loads(path.read_bytes())["manifests"] if path.exists() else []
    manifests = [each for each in others if each.get("annotations", {}).get(REF_NAME) != tag]
    manifests.append({**manifest.descriptor(), "annotations": {REF_NAME: tag}})
    path.write_bytes(_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}))


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    with file:
        member = tarfile.TarInfo(name)
        member.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        archive.addfile(member, file)


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
