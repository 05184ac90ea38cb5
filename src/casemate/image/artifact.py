"""Sealed images as OCI artifacts: to a registry, and from one.

Source: specs/sealed-image-artifact.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from casemate.encoding import decode_json
from casemate.encoding.text import decode_hex
from casemate.errors import MalformedError, NotGenuineError, UsageError
from casemate.image.file import ImageFile
from casemate.image.oci.artifacts import encode_artifact, upload_empty
from casemate.image.oci.distribution import (
    Blob,
    Repository,
    alone,
    blob_of,
    file_digest,
)
from casemate.image.oci.reference import Reference
from casemate.image.oci.store import MAX_DOCUMENT
from casemate.image.workers import Progress
from casemate.image.writing import require_new
from casemate.types import Sha384

TYPE = "application/vnd.casemate.sealed-image.v1"
"""Media type of the artifact and of its blob."""
ID = "casemate.sealed-image.id"


def push(
    path: Path, repository: Repository, reference: Reference, progress: Progress | None = None
) -> tuple[str, Sha384]:
    """Put a sealed image into a registry.

    Returns:
        The manifest's digest and the image's id.

    Raises:
        MalformedError: the file is no sealed image; UnavailableError, MalformedError:
        ``registry.*``.
    """
    image = ImageFile(path)
    image.close()
    blob = file_digest(path)
    upload_empty(repository)
    repository.upload(blob, lambda: path.open("rb"), progress)
    digest = repository.put_manifest(reference, encode_manifest(blob, image.id))
    return digest, image.id


def pull(
    repository: Repository,
    reference: Reference,
    path: Path,
    *,
    image_id: Sha384 | None = None,
    progress: Progress | None = None,
) -> tuple[str, Sha384]:
    """Get a sealed image from a registry.

    Args:
        repository: where it is.
        reference: which.
        path: the file to make; it must not be there.
        image_id: which image it must be; None takes any.
        progress: called with (bytes there, bytes in all).

    Returns:
        The manifest's digest and the image's id.

    Raises:
        UsageError: ``file.exists``, ``registry.not-sealed``, ``image.unwritable``.
        NotGenuineError: ``container.changed``, ``image.id``.
        UnavailableError, MalformedError: ``registry.*``.
    """
    require_new(path)
    digest, data, _ = repository.manifest(reference)
    blob, promised = parse_manifest(data)
    if image_id is not None and promised != image_id:
        raise _other(image_id, promised)
    part = path.with_name(f".{path.name}.{blob.digest[7:23]}.part")
    with alone(part):
        try:
            require_new(path)
        except UsageError:  # somebody else has fetched it while we waited
            part.unlink()
            raise
        repository.download(blob, part, progress)
        try:
            image = ImageFile(part)
            image.close()
            if image.id != promised:
                raise _other(promised, image.id)
        except (MalformedError, NotGenuineError):
            part.unlink()
            raise
        part.rename(path)
    return digest, image.id


def encode_manifest(blob: Blob, image_id: Sha384) -> bytes:
    """The manifest of a sealed image."""
    return encode_artifact(TYPE, blob, annotations={ID: str(image_id)})


def parse_manifest(data: bytes) -> tuple[Blob, Sha384]:
    """The blob and the id that a manifest promises.

    Raises:
        UsageError: ``registry.not-sealed`` where it is another artifact's, or an image's.
        MalformedError: ``registry.*``, ``container.digest``, ``encoding.*``.
    """
    manifest = decode_json(data, what="manifest", max_size=MAX_DOCUMENT)
    if not isinstance(manifest, dict) or manifest.get("artifactType") != TYPE:
        raise UsageError(
            "registry.not-sealed",
            "what the registry has there is no sealed image",
            field="artifactType",
            expected=TYPE,
            got=ascii(manifest.get("artifactType") if isinstance(manifest, dict) else "")[:120],
            remedy="Container images are sealed: casemate image seal registry:HOST/NAME:TAG …",
        )
    layers, annotations = manifest.get("layers"), manifest.get("annotations")
    layer = layers[0] if isinstance(layers, list) and len(layers) == 1 else None
    if not isinstance(layer, dict) or layer.get("mediaType") != TYPE:
        raise _malformed("layers", f"one of {TYPE}")
    image_id = annotations.get(ID) if isinstance(annotations, dict) else None
    if not isinstance(image_id, str):
        raise _malformed("annotations", ID)
    found = Sha384(decode_hex(image_id, field=ID, length=48))
    return blob_of(cast("Mapping[str, object]", layer)), found


def _malformed(field: str, expected: str) -> MalformedError:
    return MalformedError(
        "registry.malformed",
        f"the manifest of a sealed image has unexpected {field}",
        field=field,
        expected=expected,
        got="something else",
    )


def _other(expected: Sha384, got: Sha384) -> NotGenuineError:
    return NotGenuineError(
        "image.id",
        "the registry has another image under that name",
        field="id",
        expected=str(expected),
        got=str(got),
        remedy="Ask who pushed it, or name the image by its manifest's digest.",
    )
