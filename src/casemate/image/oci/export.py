"""A tree as a container image of one layer, encrypted for those who may run it.

Source: OCI Image Format Specification 1.1; containers/ocicrypt, "spec".
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from casemate.errors import UsageError
from casemate.image.oci.distribution import MANIFEST
from casemate.image.oci.manifest import REF_NAME, ContainerConfig, architecture
from casemate.image.oci.ocicrypt import SUFFIX, Key, encrypt_layer
from casemate.image.oci.store import blob_name
from casemate.image.payload import Layout, PayloadReader, lay_out
from casemate.image.tree import TreeEntry, normalised
from casemate.image.workers import Progress

_PIECE = 1 << 20
_LEVEL = 3  # the layer is large, and encrypted it can't be compressed later
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_MADE_BY = "casemate image export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A container image that was written.

    Args:
        digest: ``sha256:…`` of its manifest.
        size: of its layer, in bytes.
    """

    digest: str
    size: int


def export_layout(
    entries: Iterable[TreeEntry],
    config: ContainerConfig,
    folder: Path,
    *,
    tag: str,
    recipients: tuple[Key, ...],
    machine: str,
    progress: Progress | None = None,
) -> Exported:
    """Write a tree as a container image in OCI layout.

    Without recipients the layer isn't encrypted, and the same tree gives the same image.

    Args:
        entries: the tree.
        config: how a container of it is run.
        folder: for the layout; must be empty or new.
        tag: the image's name in the layout.
        recipients: public keys of those who may decrypt the layer.
        machine: as ``os.uname`` names it.
        progress: called with (bytes of the tree done, bytes in all).

    Raises:
        UsageError: ``image.tree``, ``image.destination``.
    """
    layout = lay_out(normalised(entries))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is not None:
            raise FileExistsError("the folder is not empty")
        try:
            (folder / "blobs/sha256").mkdir(parents=True)
            return _write(layout, config, folder, tag, recipients, machine, progress)
        except BaseException:  # no half of an image, least of all one that isn't encrypted
            shutil.rmtree(folder / "blobs", ignore_errors=True)
            raise
    except OSError as error:
        raise UsageError(
            "image.destination",
            f"{folder} can't be written",
            field=str(folder),
            expected="an empty folder, or a name that is free",
            got=str(error),
        ) from error


def _write(
    layout: Layout,
    config: ContainerConfig,
    folder: Path,
    tag: str,
    recipients: tuple[Key, ...],
    machine: str,
    progress: Progress | None,
) -> Exported:
    with tempfile.TemporaryFile(dir=folder) as archive:
        diff_id = _compress(layout, cast("IO[bytes]", archive), progress)
        layer = _layer(cast("IO[bytes]", archive), folder, recipients)
    document = _configuration(config, diff_id, machine)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(folder, _json(document), _CONFIG),
        "layers": [layer],
    }
    descriptor = _blob(folder, _json(manifest), MANIFEST)
    named = {**descriptor, "annotations": {REF_NAME: tag}}
    (folder / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [named]}))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return Exported(digest=str(descriptor["digest"]), size=cast("int", layer["size"]))


def _compress(layout: Layout, output: IO[bytes], progress: Progress | None) -> str:
    """Write the tree's archive with gzip; returns ``sha256:…`` of it without."""
    hashed = hashlib.sha256()
    with (
        PayloadReader(layout) as reader,
        gzip.GzipFile(fileobj=output, mode="wb", compresslevel=_LEVEL, mtime=0) as packed,
    ):
        for start in range(0, layout.size, _PIECE):
            buffer = bytearray(min(_PIECE, layout.size - start))
            reader.fill(memoryview(buffer), start)
            hashed.update(buffer)
            packed.write(buffer)
            if progress is not None:
                progress(start + len(buffer), layout.size)
    return f"sha256:{hashed.hexdigest()}"


def _layer(archive: IO[bytes], folder: Path, recipients: tuple[Key, ...]) -> dict[str, object]:
    """Put the layer among the blobs; returns its descriptor."""
    archive.seek(0)
    digest = f"sha256:{hashlib.file_digest(archive, 'sha256').hexdigest()}"  # type: ignore[arg-type]
    archive.seek(0)
    part = folder / "blobs/sha256/part"
    with part.open("xb") as output:
        if not recipients:
            size = 0
            for piece in _pieces(archive):
                size += output.write(piece)
            found: dict[str, object] = {"mediaType": _LAYER, "digest": digest, "size": size}
        else:
            layer = encrypt_layer(_pieces(archive), digest, output, recipients)
            digest = layer.digest
            found = {
                "mediaType": _LAYER + SUFFIX,
                "digest": digest,
                "size": layer.size,
                "annotations": layer.annotations,
            }
    part.rename(folder / blob_name(digest))
    return found


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def _configuration(config: ContainerConfig, diff_id: str, machine: str) -> dict[str, object]:
    run = {
        "Entrypoint": list(config.argv),
        "Env": [f"{name}={value}" for name, value in config.environment.items()],
        "WorkingDir": config.working_directory,
        "User": config.user,
    }
    return {
        "architecture": architecture(machine),
        "os": "linux",
        "config": {name: value for name, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": _MADE_BY}],
    }


def _blob(folder: Path, data: bytes, media_type: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    (folder / blob_name(digest)).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
