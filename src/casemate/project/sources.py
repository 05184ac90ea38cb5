"""What can be sealed: a folder, a bill of materials (also one in the box), a container image."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from casemate.errors import UsageError
from casemate.image.bom import Assembly, assemble, load_bom
from casemate.image.tree import tree_from_directory
from casemate.image.workers import Progress
from casemate.project.registries import RegistryAccess, read_from_registry

# What reads a kind of source is imported where that kind is read: container images and registries
# would be most of the start for a bill of materials.
if TYPE_CHECKING:
    from casemate.image.oci import ContainerTree
    from casemate.image.oci.ocicrypt import Key

_IN_THE_BOX = "bom:"
_CONTAINERS = ("oci:", "docker-archive:")
_MODEL = "model:"
_REGISTRIES = ("registry:", "docker://")
_ENDINGS = (".yaml", ".yml")
DEFAULT_LIMIT = 64 << 30
"""How many bytes a container image's layers may have in all, unless told otherwise."""


def read_source(
    source: str,
    *,
    keep_owner: bool = False,
    keep_times: bool = False,
    limit: int = DEFAULT_LIMIT,
    include_dirs: tuple[Path, ...] = (),
    access: RegistryAccess | None = None,
    decryption_keys: tuple[Path, ...] = (),
    allow_disk: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Assembly:
    """The tree that a source stands for.

    Args:
        source: a folder; a bill of materials (``.yaml``); ``bom:NAME``, a bill in the box;
            ``oci:PATH`` or ``docker-archive:FILE``, a container image, with ``:TAG`` or
            ``@sha256:…`` after it where there are several; ``registry:HOST/NAME:TAG``, one in a
            registry; ``model:DIR``, a folder that holds a model.
        keep_owner: keep the owners of a folder's entries; otherwise all belong to root. A
            container image's are always kept.
        keep_times: keep their times of change; otherwise all are 0.
        limit: how many bytes a container image's layers may have in all.
        include_dirs: where a bill's includes are looked for, after its own folder.
        access: how a registry is asked.
        decryption_keys: files of private keys, for a container image's encrypted layers.
        allow_disk: accept that these reach a disk, or plain swap, once they are decrypted.
        allow_pickle: take a model's files that run code when they are loaded.
        progress: called with (bytes fetched or hashed, bytes in all).

    Raises:
        UsageError: it isn't there, or what it names isn't.
        MalformedError: a bill that is none.
    """
    try:
        return _read(
            source, keep_owner=keep_owner, keep_times=keep_times, limit=limit,
            include_dirs=include_dirs, access=access, keys=_keys(decryption_keys),
            allow_disk=allow_disk, allow_pickle=allow_pickle, progress=progress,
        )  # fmt: skip
    except OSError as error:  # a file that this user may not read, say
        raise UsageError(
            "image.source",
            f"{source} can't be read",
            field=str(error.filename or "source"),
            expected="files and folders that whoever runs this may read",
            got=error.strerror or str(error),
            remedy="Give the right to read it, or run this as somebody who has it.",
        ) from error


def _read(
    source: str,
    *,
    keep_owner: bool,
    keep_times: bool,
    limit: int,
    include_dirs: tuple[Path, ...],
    access: RegistryAccess | None,
    keys: tuple[Key, ...],
    allow_disk: bool,
    allow_pickle: bool,
    progress: Progress | None,
) -> Assembly:
    if source in ("", _MODEL):  # of an unset variable, say; as a path it would be this folder
        raise _no_source(source, "no name")
    if source.startswith(_CONTAINERS):
        return _container(
            source.partition(":")[2], keep_times=keep_times, limit=limit, keys=keys,
            allow_disk=allow_disk,
        )  # fmt: skip
    if source.startswith(_REGISTRIES):
        tree = read_from_registry(
            source.partition(":")[2].removeprefix("//"), access or RegistryAccess(), limit=limit,
            keep_times=keep_times, keys=keys, allow_disk=allow_disk, progress=progress,
        )  # fmt: skip
        return _assembled(tree)
    if source.startswith(_MODEL):
        return _model(
            Path(source.removeprefix(_MODEL)), keep_times=keep_times,
            allow_pickle=allow_pickle, progress=progress,
        )  # fmt: skip
    path = _bill_in_the_box(source) if source.startswith(_IN_THE_BOX) else Path(source)
    if path.is_dir():
        entries = tree_from_directory(path, keep_owner=keep_owner, mtime=None if keep_times else 0)
        return Assembly(entries=entries, why={}, warnings=())
    if path.suffix in _ENDINGS and path.is_file():
        return assemble(load_bom(path, include_dirs=include_dirs, environment=os.environ))
    raise _no_source(source, "a file" if path.exists() else "nothing")


def _no_source(source: str, got: str) -> UsageError:
    return UsageError(
        "image.source",
        f"{source or 'nothing'} can't be sealed",
        field="source",
        expected="a folder, a bill of materials (.yaml), bom:NAME, oci:PATH, docker-archive:FILE, "
        "registry:HOST/NAME, model:DIR",
        got=got,
        remedy=f"In the box are: {', '.join(sorted(_bills()))}.",
    )


def _keys(paths: tuple[Path, ...]) -> tuple[Key, ...]:
    if not paths:
        return ()
    from casemate.image.oci.ocicrypt import read_key

    return tuple(read_key(path, private=True) for path in paths)


def _model(
    path: Path, *, keep_times: bool, allow_pickle: bool, progress: Progress | None
) -> Assembly:
    from casemate.image.model import read_model_folder

    mtime = None if keep_times else 0
    model = read_model_folder(path, allow_pickle=allow_pickle, mtime=mtime, progress=progress)
    return Assembly(
        entries=model.entries,
        why={each: f"{file.kind} weights" for each, file in model.weights.items()},
        warnings=model.warnings,
        weights=model.digest.hex(),
    )


def _container(
    reference: str, *, keep_times: bool, limit: int, keys: tuple[Key, ...], allow_disk: bool
) -> Assembly:
    """A container image; the path is the longest part that is there, for it may hold colons."""
    from casemate.image.oci import read_container_image

    path, tag = _parted(reference)
    if not path or not Path(path).exists():
        raise UsageError(
            "image.source",
            f"there's no container image at {reference}",
            field="source",
            expected="a folder in OCI layout or an archive, then perhaps :TAG or @sha256:…",
            got="nothing",
            remedy="Make one with `skopeo copy docker://… oci:DIR:TAG` or `docker save`.",
        )
    tree = read_container_image(
        Path(path), tag, limit=limit, keep_times=keep_times, keys=keys, allow_disk=allow_disk
    )
    return _assembled(tree)


def _parted(reference: str) -> tuple[str, str]:
    """Path, and tag or digest; either may hold colons, as ``NAME:TAG`` in Docker's archives."""
    if "@sha256:" in reference and not Path(reference).exists():
        path, _, digits = reference.rpartition("@sha256:")
        return path, f"sha256:{digits}"
    path = reference
    while not Path(path).exists() and ":" in path:
        path = path.rpartition(":")[0]
    return path, reference[len(path) + 1 :]


def _assembled(tree: ContainerTree) -> Assembly:
    return Assembly(entries=tree.entries, why=tree.why, warnings=tree.warnings, container=tree)


def _bill_in_the_box(source: str) -> Path:
    bills = _bills()
    name = source.removeprefix(_IN_THE_BOX)
    if name not in bills:
        raise UsageError(
            "image.source",
            f"there's no bill of materials {name!r} in the box",
            field="source",
            expected=" or ".join(f"bom:{each}" for each in sorted(bills)),
            got=source,
        )
    return bills[name]


def _bills() -> dict[str, Path]:
    folder = Path(str(files("casemate.project") / "boms"))
    return {path.stem: path for path in folder.glob("*.yaml")}
