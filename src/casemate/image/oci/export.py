"""A tree as a container image of one layer, encrypted for those who may run it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from casemate.errors import UsageError
from casemate.image.oci.manifest import ContainerConfig, architecture
from casemate.image.oci.ocicrypt import Key
from casemate.image.oci.write import RunSettings, WrittenImage, write_oci_layout
from casemate.image.tree import TreeEntry
from casemate.image.workers import Progress


def export_layout(
    entries: Iterable[TreeEntry],
    config: ContainerConfig,
    folder: Path,
    *,
    tag: str,
    recipients: tuple[Key, ...],
    machine: str,
    progress: Progress | None = None,
) -> WrittenImage:
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
    settings = RunSettings(
        entrypoint=config.argv,
        environment=config.environment,
        working_directory=config.working_directory or "/",
        user=config.user,
        architecture=architecture(machine),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is not None:
            raise FileExistsError("the folder is not empty")
        try:
            return write_oci_layout(
                folder, [tuple(entries)], settings, tag=tag, recipients=recipients,
                compress=True, progress=progress,
            )  # fmt: skip
        except BaseException:
            for left in folder.iterdir():  # half an image is none
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            raise
    except OSError as error:
        raise UsageError(
            "image.destination",
            f"{folder} can't be written",
            field=str(folder),
            expected="an empty folder, or a name that is free",
            got=str(error),
        ) from error
