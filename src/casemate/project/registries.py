"""Registries: who asks them, and how."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from casemate.errors import UsageError
from casemate.image.cache import cache_folder
from casemate.image.workers import Progress

# Imported where a registry is asked: every command that may ask one would wait for it.
if TYPE_CHECKING:
    from casemate.image.oci import ContainerTree
    from casemate.image.oci.distribution import Repository
    from casemate.image.oci.ocicrypt import Key
    from casemate.image.oci.reference import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryAccess:
    """How registries are asked.

    Args:
        auth_file: a file of credentials, in place of the usual ones.
        plain_http: do without TLS, and without credentials.
        ca_file: certificates of the authorities that a registry's may be from, PEM.
    """

    auth_file: Path | None = None
    plain_http: bool = False
    ca_file: Path | None = None

    def repository(self, reference: Reference) -> Repository:
        """The repository of an image.

        Raises:
            UsageError: ``registry.credentials``, ``registry.ca-file``.
        """
        from casemate.image.oci.auth import find_credentials
        from casemate.image.oci.distribution import Repository
        from casemate.image.oci.http import RegistryClient

        if self.ca_file is not None:
            _require_certificates(self.ca_file)
        credentials = find_credentials(
            reference.host, reference.name, environment=os.environ, auth_file=self.auth_file
        )
        client = RegistryClient(
            reference.host, credentials=credentials, plain_http=self.plain_http,
            ca_file=self.ca_file,
        )  # fmt: skip
        return Repository(client=client, name=reference.name)


def _require_certificates(path: Path) -> None:
    """Else it would look as if the registry were out of reach, and one had to try again."""
    import ssl

    try:
        ssl.create_default_context(cafile=str(path))
    except OSError as error:  # what TLS says is one, too
        raise UsageError(
            "registry.ca-file",
            f"{path} can't be read as certificates of authorities",
            field="--ca-file",
            expected="certificates in PEM",
            got=error.strerror or str(error),
            remedy="Name the file with the certificate of the registry's authority.",
        ) from error


def read_from_registry(
    text: str,
    access: RegistryAccess,
    *,
    limit: int,
    keep_times: bool,
    keys: tuple[Key, ...] = (),
    allow_disk: bool = False,
    progress: Progress | None = None,
) -> ContainerTree:
    """A container image in a registry as a tree.

    What came before a cut is kept in the cache until the image is whole, so that it isn't
    fetched again.

    Args:
        text: the reference.
        access: how the registry is asked.
        limit: how many bytes the layers may have in all.
        keep_times: keep times of change; otherwise all are 0.
        keys: private keys, for encrypted layers.
        allow_disk: accept that these reach a disk once they are decrypted.
        progress: called with (bytes there, bytes in all).

    Raises:
        UsageError, MalformedError, NotGenuineError, UnavailableError: ``registry.*``,
            ``container.*``.
    """
    from casemate.image.oci import read_container_image
    from casemate.image.oci.pull import pull_layout
    from casemate.image.oci.reference import parse_reference

    reference = parse_reference(text)
    name = hashlib.sha256(str(reference).encode()).hexdigest()[:32]
    folder = cache_folder("pulls") / name
    machine = os.uname().machine
    repository = access.repository(reference)
    pull_layout(repository, reference, folder, machine=machine, limit=limit, progress=progress)
    try:
        return read_container_image(
            folder, limit=limit, keep_times=keep_times, keys=keys, allow_disk=allow_disk
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
