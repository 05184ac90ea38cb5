"""Container images from a registry, as a folder in OCI layout that is sealed from.

Every blob is held against its digest when it comes, and again when the layout is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.oci.distribution import Blob, Repository, alone, blob_of
from casemate.image.oci.manifest import MAX_DEPTH, descriptors, document, for_platform, is_index
from casemate.image.oci.reference import Reference
from casemate.image.oci.store import blob_name
from casemate.image.workers import Progress
from casemate.image.writing import writing


def pull_layout(
    repository: Repository,
    reference: Reference,
    folder: Path,
    *,
    machine: str,
    limit: int,
    progress: Progress | None = None,
) -> str:
    """Fetch an image into a folder in OCI layout; blobs that are there are not fetched again.

    Args:
        repository: where it is.
        reference: which.
        folder: for the layout.
        machine: as ``os.uname`` names it: which platform's image, where there are several.
        limit: how many bytes its layers may have in all, compressed as they are.
        progress: called with (bytes there, bytes in all).

    Returns:
        ``sha256:…`` of the image's manifest.

    Raises:
        UsageError: ``container.reference``, ``container.artifact``, ``container.too-large``.
        UnavailableError, MalformedError, NotGenuineError: ``registry.*``, ``container.*``.
    """
    with writing(folder):
        (folder / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    digest, data, kind = repository.manifest(reference)
    for _ in range(MAX_DEPTH):
        manifest = document(data, "manifest")
        if not is_index(manifest):
            break
        descriptor = for_platform(manifest, machine)
        reference = Reference(
            host=reference.host, name=reference.name, tag="", digest=blob_of(descriptor).digest
        )
        digest, data, kind = repository.manifest(reference)
    if artifact := manifest.get("artifactType"):
        raise UsageError(
            "container.artifact",
            "what the registry has there is no container image",
            field="artifactType",
            expected="none, as container images have it",
            got=ascii(artifact)[:120],
            remedy="A sealed image is fetched by casemate image pull.",
        )
    blobs = [blob_of(each) for each in descriptors(manifest)]
    total = sum(blob.size for blob in blobs)
    if total > limit:
        raise UsageError(
            "container.too-large",
            "the container image is larger than it may be",
            field="layers",
            expected=f"at most {limit} bytes in all",
            got=f"{total} bytes, compressed",
            remedy="Raise --max-size if you trust the image.",
        )
    _fetch(repository, blobs, total, folder, progress)
    with writing(folder):
        (folder / blob_name(digest)).write_bytes(data)
        _write_index(folder, {"mediaType": kind, "digest": digest, "size": len(data)})
    return digest


def _write_index(folder: Path, descriptor: Mapping[str, str | int]) -> None:
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    (folder / "index.json").write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _fetch(
    repository: Repository,
    blobs: list[Blob],
    total: int,
    folder: Path,
    progress: Progress | None,
) -> None:
    before = 0
    for blob in blobs:
        path = folder / blob_name(blob.digest)
        if not path.exists() or path.stat().st_size != blob.size:
            part = path.with_name(f"{path.name}.part")
            base = before

            def told(done: int, _: int, base: int = base) -> None:
                if progress is not None:
                    progress(base + done, total)

            with alone(part):
                if path.exists() and path.stat().st_size == blob.size:
                    part.unlink()  # somebody else has fetched it while we waited
                else:
                    repository.download(blob, part, told)
                    part.rename(path)
        before += blob.size
