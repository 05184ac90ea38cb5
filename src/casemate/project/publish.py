"""Put a project's container images into a registry: with their bills of software, and signed."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from casemate.errors import UnavailableError
from casemate.image.oci.push import push_attached, push_image
from casemate.image.oci.reference import Reference, parse_reference
from casemate.image.oci.store import blob_name
from casemate.image.workers import Progress
from casemate.project.package import Packaged
from casemate.project.registries import RegistryAccess
from casemate.project.sbom import MEDIA_TYPE

_SIGNING_SECONDS = 300.0


def publish(
    layout: Path,
    packaged: Packaged,
    access: RegistryAccess,
    *,
    software: bytes,
    progress: Callable[[str], Progress] | None = None,
) -> str:
    """Put an image and its bill of software into the registry that its reference names.

    Args:
        layout: the folder in OCI layout that holds it.
        packaged: the image.
        access: how registries are asked.
        software: its bill of software.
        progress: for the name of a part, whoever is told how far it is.

    Returns:
        ``HOST/NAME@sha256:…``.

    Raises:
        UsageError: ``registry.reference`` where the reference names no registry.
        UnavailableError, MalformedError: ``registry.*``.
    """
    reference: Reference = parse_reference(packaged.reference)
    repository = access.repository(reference)
    digest = packaged.image.digest
    push_image(layout, digest, repository, reference, progress)
    size = (layout / blob_name(digest)).stat().st_size
    push_attached(software, MEDIA_TYPE, digest, size, repository)
    return f"{reference.host}/{reference.name}@{digest}"


def sign(command: str, pushed: str, environment: Mapping[str, str]) -> None:
    """Have somebody sign an image: ``COMMAND HOST/NAME@sha256:…``.

    Args:
        command: such as ``cosign sign --yes --key cosign.key``.
        pushed: what `publish` returned.
        environment: of the command.

    Raises:
        UnavailableError: ``package.sign`` with what the command said.
    """
    arguments = [*shlex.split(command), pushed]
    try:
        done = subprocess.run(
            arguments, env=dict(environment), stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=_SIGNING_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unsigned(pushed, str(error)) from error
    if done.returncode != 0:
        raise _unsigned(pushed, done.stderr.strip()[-300:] or f"status {done.returncode}")


def _unsigned(pushed: str, got: str) -> UnavailableError:
    return UnavailableError(
        "package.sign", f"{pushed} was not signed", field="--sign", got=got,
        remedy="It is in the registry, unsigned. Run the command again by hand.",
    )  # fmt: skip
