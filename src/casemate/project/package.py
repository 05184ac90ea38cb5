"""Container images of a project: broker, workload and client, without a daemon or a base image.

What goes into them is what bills of materials name; nothing secret does. The broker's secrets, its
identity and the simulated TEE's key are mounted where the containers run.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from casemate import __version__
from casemate.errors import UsageError
from casemate.evidence import Tee
from casemate.image.bom import Assembly
from casemate.image.oci.manifest import architecture
from casemate.image.oci.ocicrypt import Key
from casemate.image.oci.write import RunSettings, WrittenImage, write_oci_layout
from casemate.image.tree import EntryKind, TreeEntry
from casemate.project.build import Project
from casemate.project.contracts import read_contract_file
from casemate.project.sources import read_source
from casemate.tee.simulated import CODE_SUFFIXES, MEASURED_DISTRIBUTIONS

PYTHON = "/usr/bin/python3"
POLICY = "/etc/casemate/policy.toml"
SECRETS = "/run/casemate/secrets"
IDENTITY = "/run/casemate/broker.key"
DEVELOPMENT_ROOT = "/run/casemate/development-root.pem"
_PAYLOAD = "casemate"
_NOBODY = "65532:65532"


class Part(StrEnum):
    """What an image is for, and its name in the reference."""

    BROKER = "init_ra_server"
    WORKLOAD = "tf_demo"
    CLIENT = "tf_demo_client"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packaged:
    """An image that was written.

    Args:
        part: what it is for.
        reference: ``REGISTRY/NAME:TAG``.
        image: its digest and size.
        root: the tree of its root file system, for its bill of software.
    """

    part: Part
    reference: str
    image: WrittenImage
    root: Assembly


def package(
    project: Project,
    layout: Path,
    *,
    registry: str,
    tag: str,
    names: dict[Part, str],
    recipients: tuple[Key, ...] = (),
    on_part: Callable[[Part], None] = lambda _: None,
) -> Iterator[Packaged]:
    """Write the container images of a built project into a folder in OCI layout.

    Args:
        project: built.
        layout: the folder.
        registry: what the names begin with.
        tag: what they end with.
        names: other names than the reference's.
        recipients: public keys of those who may decrypt the layers; none leaves them readable.
        on_part: told which image is next.

    Raises:
        UsageError: the project isn't built, or a file of an image is missing.
    """
    if not project.contract.exists():
        raise UsageError(
            "project.unbuilt", "the project isn't built", field="--project",
            remedy="Build it: casemate build",
        )  # fmt: skip
    for part, build in ((Part.BROKER, _broker), (Part.WORKLOAD, _workload), (Part.CLIENT, _client)):
        on_part(part)
        reference = f"{registry}/{names.get(part, part)}:{tag}"
        root, layers, settings = build(project, reference)
        image = write_oci_layout(layout, layers, settings, tag=reference, recipients=recipients)
        yield Packaged(part=part, reference=reference, image=image, root=root)


_Built = tuple[Assembly, list[tuple[TreeEntry, ...]], RunSettings]


def _broker(project: Project, reference: str) -> _Built:
    root = read_source("bom:broker")
    port = read_contract_file(project.contract).broker.endpoint[1]
    settings = RunSettings(
        entrypoint=(PYTHON, "-I", "-m", "casemate.cli.start", "broker"),
        command=(
            *("--policy", POLICY, "--secrets", SECRETS, "--identity", IDENTITY),
            *("--listen", f"0.0.0.0:{port}"),
        ),
        environment={"LANG": "C.UTF-8"},
        user=_NOBODY,
        ports=(port,),
        labels=_labels(project, reference, "key broker"),
        architecture=architecture(platform.machine()),
    )
    return root, [root.entries], settings


def _workload(project: Project, reference: str) -> _Built:
    root = read_source("bom:launcher")
    contract = read_contract_file(project.contract)
    payload = [_file("launch.cbor", project.contract)]
    payload += [
        _file(f"images/{image.name}.sealed", project.images / f"{image.name}.sealed")
        for image in contract.images
    ]
    tee = project.manifest.tee.kind
    simulated = ("--development-root", DEVELOPMENT_ROOT) if tee is Tee.SIMULATED else ()
    settings = RunSettings(
        entrypoint=(
            *(PYTHON, "-I", "-m", "casemate.launcher", "--contract", f"/{_PAYLOAD}/launch.cbor"),
            *("--images", f"/{_PAYLOAD}/images", "--tee", tee.value, *simulated),
        ),
        environment={"LANG": "C.UTF-8"},
        user="0:0",  # a new root needs chroot or namespaces; the workload itself is the contract's
        ports=(project.manifest.workload.port,),
        labels={
            **_labels(project, reference, "launcher and sealed images"),
            "dev.casemate.contract": str(contract.digest()),
        },
        architecture=architecture(platform.machine()),
    )
    entries = (*root.entries, *measured_records(root))
    return root, [entries, tuple(payload)], settings


def _client(project: Project, reference: str) -> _Built:
    root = read_source("bom:client")
    settings = RunSettings(
        entrypoint=(PYTHON, "-I", "-m", "casemate.cli.start"),
        command=("predict", "--help"),
        environment={"LANG": "C.UTF-8"},
        user=_NOBODY,
        labels=_labels(project, reference, "client"),
        architecture=architecture(platform.machine()),
    )
    return root, [root.entries], settings


def measured_records(root: Assembly) -> Iterator[TreeEntry]:
    """The lists of code files by which a simulated TEE measures a launcher's distributions.

    A bill of materials leaves installation records out, for they tell of the machine; these are
    made anew and name code alone.
    """
    records = {
        entry.path.rpartition("/")[0]: entry
        for entry in root.entries
        if entry.path.endswith(".dist-info/METADATA")
    }
    for name in MEASURED_DISTRIBUTIONS:
        distribution = metadata.distribution(name)
        folder = next((each for each in records if _is_of(each, distribution)), None)
        if folder is None:
            continue
        files = sorted(
            file.as_posix() for file in distribution.files or () if file.suffix in CODE_SUFFIXES
        )
        text = "".join(f"{file},,\n" for file in files).encode()
        yield TreeEntry(
            path=f"{folder}/RECORD", kind=EntryKind.FILE, mode=0o644, size=len(text), source=text
        )


def _is_of(folder: str, distribution: metadata.Distribution) -> bool:
    """Whether a ``.dist-info`` folder is a distribution's; names are written in several ways."""
    name = folder.rpartition("/")[2].removesuffix(".dist-info").rpartition("-")[0]
    return _normal(name) == _normal(distribution.metadata["Name"])


def _normal(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _file(path: str, source: Path) -> TreeEntry:
    if not source.is_file():
        raise UsageError(
            "project.unbuilt", f"{source.name} isn't there", field="--project",
            remedy="Build the project: casemate build",
        )  # fmt: skip
    return TreeEntry(
        path=f"{_PAYLOAD}/{path}", kind=EntryKind.FILE, mode=0o644,
        size=source.stat().st_size, source=source,
    )  # fmt: skip


def _labels(project: Project, reference: str, what: str) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": reference.rpartition("/")[2].partition(":")[0],
        "org.opencontainers.image.description": f"{project.manifest.name}: {what}",
        "org.opencontainers.image.version": reference.rpartition(":")[2],
        "dev.casemate.version": __version__,
    }
