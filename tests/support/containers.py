"""Container images of our own, layer by layer, in OCI layout or as ``docker save`` writes them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

_OCI = "application/vnd.oci.image"
COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: zstandard.compress(data),
}


@dataclass(frozen=True)
class File:
    """A member of a layer; a folder without content, a link where there's a target."""

    name: str
    content: bytes | None = None
    link: str = ""
    hard: bool = False
    mode: int = 0o644
    uid: int = 0
    kind: bytes | None = None
    pax: dict[str, str] = field(default_factory=dict)

    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name)
        info.mode, info.uid, info.gid, info.mtime = self.mode, self.uid, self.uid, 1_700_000_000
        info.pax_headers = dict(self.pax)
        if self.kind is not None:
            info.type = self.kind
        elif self.link:
            info.type = tarfile.LNKTYPE if self.hard else tarfile.SYMTYPE
            info.linkname = self.link
        elif self.content is None:
            info.type = tarfile.DIRTYPE
        else:
            info.size = len(self.content)
        return info


def layer(*files: File) -> bytes:
    """A layer's archive."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            tar.addfile(file.info(), io.BytesIO(file.content or b""))
    return output.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def configuration(layers: Sequence[bytes], **config: object) -> bytes:
    """An image's configuration."""
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in layers]},
            "history": [{"created_by": f"RUN step {n}"} for n in range(len(layers))],
        }
    ).encode()


def oci_layout(
    folder: Path,
    layers: Sequence[bytes],
    *,
    compression: str = "gzip",
    tag: str = "latest",
    config: dict[str, object] | None = None,
) -> str:
    """Add an image to a folder in OCI layout; returns its manifest's digest."""
    (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)

    def add(data: bytes, kind: str) -> dict[str, object]:
        name = digest(data)
        (folder / "blobs" / name.replace(":", "/")).write_bytes(data)
        return {"mediaType": kind, "digest": name, "size": len(data)}

    suffix = f"+{compression}" if compression else ""
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": add(configuration(layers, **(config or {})), f"{_OCI}.config.v1+json"),
        "layers": [
            add(COMPRESSIONS[compression](each), f"{_OCI}.layer.v1.tar{suffix}") for each in layers
        ],
    }
    descriptor = add(json.dumps(manifest).encode(), f"{_OCI}.manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    path = folder / "index.json"
    index = json.loads(path.read_text()) if path.exists() else {"manifests": []}
    index = {"schemaVersion": 2, "manifests": [*index["manifests"], descriptor]}
    path.write_text(json.dumps(index))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return str(descriptor["digest"])


def docker_archive(path: Path, layers: Sequence[bytes], *, tag: str = "demo:1.0") -> None:
    """What ``docker save`` writes."""
    config = configuration(layers)
    names = [f"{digest(each)[7:]}/layer.tar" for each in layers]
    manifest = [{"Config": f"{digest(config)[7:]}.json", "RepoTags": [tag], "Layers": names}]
    files = {
        f"{digest(config)[7:]}.json": config,
        "manifest.json": json.dumps(manifest).encode(),
        **dict(zip(names, layers, strict=True)),
    }
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
