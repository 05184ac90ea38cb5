"""Put a container image from a folder in OCI layout into a registry, and what belongs to it.

Source: OCI Distribution Specification 1.1; OCI Image Format Specification 1.1, "subject".
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from casemate.image.oci.artifacts import descriptor, encode_artifact, upload_empty
from casemate.image.oci.distribution import Blob, Repository, blob_of
from casemate.image.oci.manifest import descriptors, document
from casemate.image.oci.reference import Reference
from casemate.image.oci.store import MANIFEST_TYPE, FolderStore, blob_name, read_blob
from casemate.image.workers import Progress


def push_image(
    layout: Path,
    digest: str,
    repository: Repository,
    reference: Reference,
    progress: Callable[[str], Progress] | None = None,
) -> None:
    """Put an image into a registry; what it has already isn't sent again.

    Args:
        layout: the folder.
        digest: of the image's manifest.
        repository: where it goes.
        reference: under which tag.
        progress: for the name of a part, whoever is told how far it is.

    Raises:
        UnavailableError, MalformedError: ``registry.*``.
    """
    store = FolderStore(layout)
    data = read_blob(store, digest, "the manifest")
    for each in descriptors(document(data, "manifest")):
        blob = blob_of(each)
        bar = progress(blob.digest[7:19]) if progress is not None else None
        repository.upload(blob, partial(store.open, blob_name(blob.digest)), bar)
    repository.put_manifest(reference, data)


def push_attached(
    content: bytes, media_type: str, digest: str, size: int, repository: Repository
) -> str:
    """Put a document into a registry that says something of an image there.

    Args:
        content: the document.
        media_type: its type, by which it is found.
        digest: of the image's manifest.
        size: of that manifest, in bytes.
        repository: where the image is.

    Returns:
        The digest of the document's own manifest.
    """
    blob = Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size=len(content))
    upload_empty(repository)
    repository.upload(blob, lambda: io.BytesIO(content))
    subject = descriptor(Blob(digest=digest, size=size), MANIFEST_TYPE)
    data = encode_artifact(media_type, blob, subject=subject)
    own = f"sha256:{hashlib.sha256(data).hexdigest()}"
    repository.put_manifest(
        Reference(host=repository.client.host, name=repository.name, tag="", digest=own), data
    )
    return own
