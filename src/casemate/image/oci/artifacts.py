"""Artifacts: what a registry keeps beside container images, as a manifest of one blob.

Source: OCI Image Format Specification 1.1, "Guidelines for Artifact Usage".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO

from casemate.image.oci.distribution import Blob, Repository
from casemate.image.oci.store import MANIFEST_TYPE

_EMPTY = b"{}"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_EMPTY_BLOB = Blob(
    digest="sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", size=2
)


def upload_empty(repository: Repository) -> None:
    """Send what stands for an artifact's configuration.

    Raises:
        UnavailableError, MalformedError: ``registry.*``.
    """
    repository.upload(_EMPTY_BLOB, lambda: BytesIO(_EMPTY))


def encode_artifact(media_type: str, blob: Blob, **further: Mapping[str, str | int]) -> bytes:
    """The manifest of an artifact.

    Args:
        media_type: of the artifact and of its blob.
        blob: its content.
        further: members of the manifest: ``annotations``, or a ``subject``.
    """
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": media_type,
        "config": descriptor(_EMPTY_BLOB, _EMPTY_TYPE),
        "layers": [descriptor(blob, media_type)],
        **further,
    }
    return json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()


def descriptor(blob: Blob, media_type: str) -> dict[str, str | int]:
    """How a manifest names a blob."""
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}
