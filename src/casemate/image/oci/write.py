"""Write a container image: trees become layers, in a folder in OCI layout or a Docker archive.

The same trees and settings give the same digests, on any machine: layers aren't compressed, for
what compressors put out changes with their version, and nothing has a time.

Source: OCI Image Format Specification 1.1; Docker Image Specification 1.2.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from casemate.image.oci.ocicrypt import SUFFIX, Key, encrypt_layer
from casemate.image.payload import PayloadReader, lay_out
from casemate.image.tree import TreeEntry, normalised

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_REFERENCE = "org.opencontainers.image.ref.name"
_EPOCH = "1970-01-01T00:00:00Z"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How a container of an image is run.

    Args:
        entrypoint: the command line.
        command: arguments that a user may replace.
        environment: variables.
        user: ``UID:GID``.
        ports: TCP ports that it serves.
        labels: of the image.
        architecture: Go's name of it: ``amd64``.
    """

    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    environment: Mapping[str, str]
    user: str
    ports: tuple[int, ...] = ()
    labels: Mapping[str, str]
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
) -> WrittenImage:
    """Write an image into a folder in OCI layout, beside those that are there under other tags.

    Args:
        folder: made where it isn't there.
        layers: trees, from the lowest up.
        settings: how it is run.
        tag: its name in the layout; whatever had it before loses it.
        recipients: public keys of those who may decrypt the layers (ocicrypt); where there are
            any, each time gives other bytes.

    Raises:
        UsageError: ``image.tree`` for what can't be in a tree.
    """
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    written = [_layer(blobs, layer) for layer in layers]
    config = _put(blobs, CONFIG_TYPE, _config(written, settings))
    if recipients:
        written = [_encrypted(blobs, layer, recipients) for layer in written]
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
    """
    blobs = layout / "blobs" / "sha256"
    top: list[dict[str, str | list[str]]] = []
    wanted: dict[str, str] = {}
    for each in json.loads((layout / "index.json").read_bytes())["manifests"]:
        if each["annotations"][_REFERENCE] not in tags:
            continue
        manifest = json.loads((blobs / _digits(each["digest"])).read_bytes())
        config = _digits(manifest["config"]["digest"])
        layers = [_digits(layer["digest"]) for layer in manifest["layers"]]
        wanted |= {f"{config}.json": config} | {f"{name}.tar": name for name in layers}
        top.append(
            {
                "Config": f"{config}.json",
                "RepoTags": [each["annotations"][_REFERENCE]],
                "Layers": [f"{name}.tar" for name in layers],
            }
        )
    part = file.with_name(f".{file.name}.part")
    with tarfile.open(part, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, blob in sorted(wanted.items()):
            _add(archive, name, (blobs / blob).open("rb"))
        _add(archive, "manifest.json", io.BytesIO(_json(top)))
    part.replace(file)


def _layer(blobs: Path, entries: tuple[TreeEntry, ...]) -> _Blob:
    """A layer's blob: the tar archive of a tree, in pieces."""
    layout = lay_out(normalised(entries))
    digest = hashlib.sha256()
    part = blobs / ".part"
    with part.open("wb") as file, PayloadReader(layout) as reader:
        for start in range(0, layout.size, _PIECE):
            piece = bytearray(min(_PIECE, layout.size - start))
            reader.fill(memoryview(piece), start)
            digest.update(piece)
            file.write(piece)
    part.replace(blobs / digest.hexdigest())
    return _Blob(media_type=LAYER_TYPE, digest=f"sha256:{digest.hexdigest()}", size=layout.size)


def _encrypted(blobs: Path, layer: _Blob, recipients: tuple[Key, ...]) -> _Blob:
    """A layer's blob encrypted; the one in the clear is gone then."""
    plain, part = blobs / _digits(layer.digest), blobs / ".part"
    with plain.open("rb") as file, part.open("wb") as output:
        pieces = iter(lambda: file.read(_PIECE), b"")
        made = encrypt_layer(pieces, layer.digest, output, recipients)
    part.replace(blobs / _digits(made.digest))
    plain.unlink()
    return _Blob(
        media_type=LAYER_TYPE + SUFFIX,
        digest=made.digest,
        size=made.size,
        annotations=made.annotations,
    )


def _config(layers: Sequence[_Blob], settings: RunSettings) -> bytes:
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
                "WorkingDir": "/",
                "ExposedPorts": {f"{port}/tcp": {} for port in settings.ports},
                "Labels": dict(settings.labels),
                "StopSignal": "SIGTERM",
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": _EPOCH, "created_by": "casemate package"} for _ in layers],
        }
    )


def _put(blobs: Path, media_type: str, data: bytes) -> _Blob:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return _Blob(media_type=media_type, digest=f"sha256:{digest}", size=len(data))


def _index(folder: Path, manifest: _Blob, tag: str) -> None:
    path = folder / "index.json"
    others = json.loads(path.read_bytes())["manifests"] if path.exists() else []
    manifests = [each for each in others if each.get("annotations", {}).get(_REFERENCE) != tag]
    manifests.append({**manifest.descriptor(), "annotations": {_REFERENCE: tag}})
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
