"""A project on Kubernetes: the values of its Helm release, and objects that hold its secrets."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import yaml

from casemate.errors import UsageError
from casemate.evidence import Tee
from casemate.project.build import Project
from casemate.project.contracts import read_contract_file
from casemate.project.files import read_file, read_text, replace_private, replace_public

VALUES, SECRETS = "values.yaml", "secrets.yaml"
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?\Z", re.ASCII)
_PARTS = ("broker", "workload", "client")
_REFERENCE = "org.opencontainers.image.ref.name"


def write_deployment(
    project: Project, folder: Path, *, registry: str, tag: str, names: tuple[str, str, str],
    layout: Path | None,
) -> tuple[Path, Path]:  # fmt: skip
    """Write what ``helm install`` and ``kubectl apply`` are given.

    Args:
        project: built for the cluster: its broker's server is a Service's name.
        folder: where the two files go.
        registry: what the images' names begin with.
        tag: what they end with.
        names: of the broker's, the workload's and the client's image.
        layout: the images as they were packaged, for their digests; None leaves them to the tag.

    Returns:
        The values, which are public; the objects with secrets, which only their owner reads.

    Raises:
        UsageError: the project isn't built, or not for a cluster.
    """
    host, port = read_contract_file(project.contract).broker.endpoint
    if not _SERVICE.match(host):
        raise UsageError(
            "deploy.broker", "launchers couldn't find the broker in a cluster",
            field="broker.server", expected="the name of a Service, such as casemate-broker",
            got=host, remedy="Build for the cluster: casemate build --server casemate-broker",
        )  # fmt: skip
    values = {
        "images": {
            "registry": registry,
            "tag": tag,
            **dict(zip(_PARTS, names, strict=True)),
            "digests": _digests(layout, registry, tag, names) if layout is not None else {},
        },
        "tee": {"kind": project.manifest.tee.kind.value},
        "broker": {
            "serviceName": host,
            "port": port,
            "policy": read_text(project.policy, field="policy"),
        },
        "workload": {
            "port": project.manifest.workload.port,
            "service": {"port": project.manifest.workload.port},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    replace_public(folder / VALUES, yaml.safe_dump(values, sort_keys=False).encode())
    objects = yaml.safe_dump_all(list(_objects(project)), sort_keys=False)
    replace_private(folder / SECRETS, objects.encode())
    return folder / VALUES, folder / SECRETS


def _objects(project: Project) -> list[dict[str, object]]:
    secrets = {path.name: path.read_bytes() for path in sorted(project.secrets.iterdir())}
    identity = {"broker.key": read_file(project.identity, field="broker.key")}
    objects = [
        _secret("casemate-secrets", secrets),
        _secret("casemate-broker-identity", identity),
    ]
    if project.manifest.tee.kind is Tee.SIMULATED:
        root = {"development-root.pem": read_file(project.development_root, field="tee")}
        objects.append(_secret("casemate-development-root", root))
    believed = {"policy.toml": read_text(project.policy, field="policy")}
    if project.certificate.exists():
        believed["server.crt"] = project.certificate.read_text()
    objects.append(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "casemate-server-certificate"},
            "data": believed,
        }
    )
    return objects


def _secret(name: str, data: dict[str, bytes]) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "type": "Opaque",
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _digests(layout: Path, registry: str, tag: str, names: tuple[str, str, str]) -> dict[str, str]:
    """The digests of the images in a folder in OCI layout that we wrote."""
    index = json.loads(read_file(layout / "index.json", field="--packages"))
    found = {each["annotations"][_REFERENCE]: each["digest"] for each in index["manifests"]}
    wanted = {part: f"{registry}/{name}:{tag}" for part, name in zip(_PARTS, names, strict=True)}
    return {part: found[reference] for part, reference in wanted.items() if reference in found}
