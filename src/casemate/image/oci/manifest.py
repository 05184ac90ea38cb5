"""From a reference to the layers and the configuration of one image.

Source: OCI Image Format Specification 1.1, "Image Manifest", "Image Index", "Image Configuration";
Docker Image Specification 1.2 for ``manifest.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from casemate.encoding import MapReader, decode_json
from casemate.errors import MalformedError, UsageError
from casemate.image.oci.ocicrypt import SUFFIX, Sealing, parse_annotations
from casemate.image.oci.store import (
    INDEX_TYPE,
    MAX_DOCUMENT,
    Store,
    blob_name,
    read_blob,
    read_document,
)

_INDEXES = (
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LAYERS = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
_MAX_LAYERS = 512
MAX_DEPTH = 3
REF_NAME = "org.opencontainers.image.ref.name"
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer: a tar archive, perhaps compressed.

    Args:
        name: of its file in the store.
        digest: ``sha256:…`` of the file; None where only its content has one.
        diff_id: ``sha256:…`` of the archive without compression.
        compression: ``gzip``, ``zstd`` or nothing; None where its first bytes must tell.
        made_by: the command that made it, if the image says.
        sealing: how it is encrypted, if it is.
    """

    name: str
    digest: str | None
    diff_id: str
    compression: str | None
    made_by: str
    sealing: Sealing | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerConfig:
    """How a container is run.

    Args:
        argv: entry point and command.
        environment: ``NAME=value`` of each variable.
        working_directory: absolute.
        user: as the image has it: names or numbers, perhaps with a group; empty for root.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerManifest:
    """An image, read as far as its layers.

    Args:
        digest: ``sha256:…`` of the manifest, or of the configuration in one of Docker's archives.
        layers: lowest first.
        config: how it is run.
    """

    digest: str
    layers: tuple[Layer, ...]
    config: ContainerConfig


def find_image(store: Store, reference: str, *, machine: str) -> ContainerManifest:
    """Find an image.

    Args:
        store: where it lies.
        reference: a tag, ``sha256:…`` of a manifest, or nothing where there is one image.
        machine: as ``os.uname`` names it: which platform's image, where there are several.

    Raises:
        UsageError: ``container.reference`` where it isn't there, or not alone.
        MalformedError, NotGenuineError: ``container.*``, ``encoding.*``.
    """
    if "index.json" in store.names():
        return _from_layout(store, reference, machine)
    return _from_docker(store, reference)


def _from_layout(store: Store, reference: str, machine: str) -> ContainerManifest:
    index = document(read_document(store, "index.json"), "index.json")
    images = list(_maps(index, "manifests"))
    found = [
        each
        for each in images
        if not reference
        or reference == each.get("digest")
        or reference == _annotations(each).get(REF_NAME)
    ]
    names = [_name_of(each) for each in images]
    descriptor = _only(found, reference or "an image", names)
    for _ in range(MAX_DEPTH):
        digest = _text(descriptor, "digest")
        manifest = document(read_blob(store, digest, "the manifest"), "manifest")
        if descriptor.get("mediaType") not in _INDEXES and not is_index(manifest):
            return _from_manifest(store, digest, manifest)
        descriptor = for_platform(manifest, machine)
    raise _malformed("index", f"at most {MAX_DEPTH} levels", "more")


def architecture(machine: str) -> str:
    """A machine as container images name it.

    Args:
        machine: as ``os.uname`` names it.
    """
    return _MACHINES.get(machine, machine)


def is_index(manifest: Mapping[str, object]) -> bool:
    """Whether it names manifests, and not layers."""
    return "manifests" in manifest


def for_platform(index: Mapping[str, object], machine: str) -> Mapping[str, object]:
    """The descriptor of the one manifest for a machine.

    Args:
        index: of manifests.
        machine: as ``os.uname`` names it.

    Raises:
        UsageError: ``container.reference``; MalformedError: ``container.manifest``.
    """
    wanted = _MACHINES.get(machine)
    platforms = [each for each in _maps(index, "manifests") if _is_for(each, wanted)]
    return _only(platforms, f"linux/{_MACHINES.get(machine, machine)}", [])


def descriptors(manifest: Mapping[str, object]) -> tuple[Mapping[str, object], ...]:
    """Of the configuration and the layers.

    Raises:
        MalformedError: ``container.manifest``.
    """
    return (_map(manifest, "config"), *_maps(manifest, "layers"))


def _from_manifest(store: Store, digest: str, manifest: Mapping[str, object]) -> ContainerManifest:
    config = _map(manifest, "config")
    how = document(read_blob(store, _text(config, "digest"), "the configuration"), "configuration")
    diff_ids = _diff_ids(how)
    found = list(_maps(manifest, "layers"))
    if len(found) != len(diff_ids):
        raise _malformed("layers", f"{len(diff_ids)}, as the configuration has", "another number")
    layers = []
    for descriptor, diff_id, made_by in zip(
        found, diff_ids, _commands(how, len(diff_ids)), strict=True
    ):
        kind = _text(descriptor, "mediaType")
        encrypted, kind = kind.endswith(SUFFIX), kind.removesuffix(SUFFIX)
        if kind not in _LAYERS:
            raise UsageError(
                "container.layer-kind",
                "the image has a layer of a kind that can't be read",
                field="mediaType",
                expected="a tar archive, plain or with gzip or zstd",
                got=kind[:120],
                remedy="Copy the image with skopeo, which makes such layers of it.",
            )
        layer = _text(descriptor, "digest")
        layers.append(
            Layer(
                name=blob_name(layer),
                digest=layer,
                diff_id=diff_id,
                compression=_LAYERS[kind],
                made_by=made_by,
                sealing=parse_annotations(_annotations(descriptor)) if encrypted else None,
            )
        )
    return ContainerManifest(digest=digest, layers=tuple(layers), config=_config(how))


def _from_docker(store: Store, reference: str) -> ContainerManifest:
    value = decode_json(
        read_document(store, "manifest.json"), what="manifest.json", max_size=MAX_DOCUMENT
    )
    images = [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
    found = [
        each
        for each in images
        if not reference or any(_tagged(tag, reference) for tag in _texts(each, "RepoTags"))
    ]
    tags = [tag for each in images for tag in _texts(each, "RepoTags")]
    image = _only(found, reference or "an image", tags)
    data = read_document(store, _text(image, "Config"))
    how = document(data, "configuration")
    diff_ids, names = _diff_ids(how), _texts(image, "Layers")
    if len(names) != len(diff_ids):
        raise _malformed("Layers", f"{len(diff_ids)}, as the configuration has", str(len(names)))
    commands = _commands(how, len(names))
    return ContainerManifest(
        digest=f"sha256:{hashlib.sha256(data).hexdigest()}",
        layers=tuple(
            Layer(name=name, digest=None, diff_id=diff_id, compression=None, made_by=made_by)
            for name, diff_id, made_by in zip(names, diff_ids, commands, strict=True)
        ),
        config=_config(how),
    )


def _tagged(tag: str, reference: str) -> bool:
    """Whether ``HOST/NAME:TAG`` is meant: by itself, by its end from a ``/`` on, or by ``TAG``."""
    return reference in (tag, tag.rpartition(":")[2]) or tag.endswith(f"/{reference}")


def _diff_ids(config: Mapping[str, object]) -> list[str]:
    found = _texts(_map(config, "rootfs"), "diff_ids")
    if not 0 < len(found) <= _MAX_LAYERS:
        raise _malformed("rootfs.diff_ids", f"1 to {_MAX_LAYERS}", str(len(found)))
    for each in found:
        blob_name(each)  # a SHA-256
    return found


def _commands(config: Mapping[str, object], layers: int) -> list[str]:
    """What made each layer; empty where the history doesn't tell."""
    history = config.get("history")
    made = [
        str(each.get("created_by", ""))[:200]
        for each in (history if isinstance(history, list) else [])
        if isinstance(each, dict) and not each.get("empty_layer")
    ]
    return made if len(made) == layers else [""] * layers


def _config(document: Mapping[str, object]) -> ContainerConfig:
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise _malformed("config", "an object", type(config).__name__)
    variables = [each.partition("=") for each in _texts(config, "Env")]
    return ContainerConfig(
        argv=(*_texts(config, "Entrypoint"), *_texts(config, "Cmd")),
        environment={name: value for name, _, value in variables},
        working_directory=str(config.get("WorkingDir") or "/"),
        user=str(config.get("User") or ""),
    )


def _is_for(descriptor: Mapping[str, object], architecture: str | None) -> bool:
    platform = descriptor.get("platform")
    return isinstance(platform, dict) and (
        (platform.get("os"), platform.get("architecture")) == ("linux", architecture)
    )


def _name_of(descriptor: Mapping[str, object]) -> str:
    return str(_annotations(descriptor).get(REF_NAME) or descriptor.get("digest"))


def _annotations(descriptor: Mapping[str, object]) -> Mapping[str, object]:
    found = descriptor.get("annotations")
    return found if isinstance(found, dict) else {}


def _only(
    found: Sequence[Mapping[str, object]], wanted: str, others: list[str]
) -> Mapping[str, object]:
    if len(found) != 1:
        raise UsageError(
            "container.reference",
            f"there is no one image for {wanted}",
            field="reference",
            expected="exactly one image",
            got=", ".join(others)[:300] or str(len(found)),
            remedy="Name one: oci:DIR:TAG, oci:DIR@sha256:… or docker-archive:FILE:TAG.",
        )
    return found[0]


def document(data: bytes, what: str) -> Mapping[str, object]:
    """An object of JSON.

    Raises:
        MalformedError: ``container.manifest``, ``encoding.*``.
    """
    value = decode_json(data, what=what, max_size=MAX_DOCUMENT)
    if not isinstance(value, dict):
        raise _malformed(what, "an object", type(value).__name__)
    return cast("Mapping[str, object]", value)


def _maps(value: Mapping[str, object], name: str) -> Iterator[Mapping[str, object]]:
    items = value.get(name)
    if not isinstance(items, list) or len(items) > _MAX_LAYERS:
        raise _malformed(name, f"a list of at most {_MAX_LAYERS}", "something else")
    for item in items:
        if not isinstance(item, dict):
            raise _malformed(name, "objects", type(item).__name__)
        yield cast("Mapping[str, object]", item)


def _map(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    if not isinstance(found, dict):
        raise _malformed(name, "an object", type(found).__name__)
    return cast("Mapping[str, object]", found)


def _text(value: Mapping[str, object], name: str) -> str:
    return MapReader(value, what="container").take(name, str)


def _texts(value: Mapping[str, object], name: str) -> list[str]:
    found = value.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise _malformed(name, "a list of texts", "something else")
    return cast("list[str]", found)


def _malformed(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "container.manifest",
        f"the container image has an unexpected {field}",
        field=field,
        expected=expected,
        got=got,
    )
