"""Put a container image from a folder in OCI layout into a registry, and what belongs to it.

Source: OCI Distribution Specification 1.1; OCI Image Format Specification 1.1, "subject".
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from casemate.encoding import decode_json
from casemate.errors import MalformedError
from casemate.image.oci.distribution import Blob, Repository, blob_of
from casemate.image.oci.reference import Reference
from casemate.image.oci.store import MAX_DOCUMENT, FolderStore, blob_name, read_blob
from casemate.image.oci.write import MANIFEST_TYPE
from casemate.image.workers import Progress

_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


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
    manifest = decode_json(data, what="manifest", max_size=MAX_DOCUMENT)
    if not isinstance(manifest, dict):
        raise MalformedError("container.manifest", "the manifest is no object", field="manifest")
    config, layers = manifest.get("config"), manifest.get("layers")
    for descriptor in [config, *(layers if isinstance(layers, list) else [])]:
        if not isinstance(descriptor, dict):
            raise MalformedError("container.manifest", "a part is no object", field="layers")
        blob = blob_of(descriptor)
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
    empty = Blob(digest=f"sha256:{hashlib.sha256(_EMPTY).hexdigest()}", size=len(_EMPTY))
    blob = Blob(digest=f"sha256:{hashlib.sha256(content).hexdigest()}", size=len(content))
    repository.upload(empty, lambda: io.BytesIO(_EMPTY))
    repository.upload(blob, lambda: io.BytesIO(content))
    data = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": media_type,
            "config": {"mediaType": _EMPTY_TYPE, "digest": empty.digest, "size": empty.size},
            "layers": [{"mediaType": media_type, "digest": blob.digest, "size": blob.size}],
            "subject": {"mediaType": MANIFEST_TYPE, "digest": digest, "size": size},
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    own = f"sha256:{hashlib.sha256(data).hexdigest()}"
    repository.put_manifest(
        Reference(host=repository.client.host, name=repository.name, tag="", digest=own), data
    )
    return own
