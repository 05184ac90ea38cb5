"""``casemate.toml``: everything from which a service is built and run.

Source: specs/project-file.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from casemate.encoding import MapReader
from casemate.errors import MalformedError
from casemate.evidence import Tee
from casemate.protocol.contract_certificate import DEFAULT_DAYS
from casemate.tee.platform import CHOICES

FILE_NAME = "casemate.toml"
_VERSION = 1
_MAX_SIZE = 256 * 1024
_SERVICE = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?\Z", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_MAX_PORT = 65535
_ORDINARY_USER = 1000
PORT = "{port}"
"""Stands for the workload's port in its command line."""


class TlsForm(StrEnum):
    """The form in which the workload reads its TLS identity."""

    TENSORFLOW_SERVING = "tensorflow-serving"
    PEM = "pem"
    NONE = "none"


class TlsIdentityFrom(StrEnum):
    """Where the workload's TLS identity comes from."""

    SECRET = "secret"  # noqa: S105
    """The build makes it, and the broker releases it."""
    ATTESTED = "attested"
    """The launcher makes it in the TEE, with a certificate that carries evidence of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What runs.

    Args:
        argv: the command line, with `PORT` in it or not.
        port: TCP port on which it serves.
        environment: variables with their values.
        host_environment: variables that the host may set, with patterns.
        working_directory: path in the new root.
        uid: its user.
        gid: its group.
    """

    argv: tuple[str, ...]
    port: int
    environment: Mapping[str, str]
    host_environment: Mapping[str, str]
    working_directory: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """What is sealed, under which key, and where it is mounted."""

    name: str
    source: str
    mount: str
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretSource:
    """A secret: the file that holds it, and where the workload finds it."""

    name: str
    file: str
    path: str
    mode: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSource:
    """The TLS identity that the build makes, or the launcher.

    Args:
        form: how the workload reads it.
        identity: who makes it.
        hosts: what the certificate is for.
        days: how long it is valid.
        placements: secret name to path in the new root; the names mean nothing where the launcher
            makes it.
    """

    form: TlsForm
    identity: TlsIdentityFrom
    hosts: tuple[str, ...]
    days: int
    placements: Mapping[str, str]

    @property
    def secrets(self) -> Mapping[str, str]:
        """Those placements that the broker holds a secret for."""
        return self.placements if self.identity is TlsIdentityFrom.SECRET else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeSource:
    """The TEE of launchers, and for hardware the policy that says what its evidence must be."""

    kind: Tee
    policy: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A project file's content.

    Args:
        name: of the service.
        workload: what runs.
        images: what is sealed.
        secrets: what the broker holds beside keys and TLS.
        tls: the workload's TLS identity.
        broker: host and port under which launchers reach the broker.
        tee: the TEE of launchers.
    """

    name: str
    workload: Workload
    images: tuple[ImageSource, ...]
    secrets: tuple[SecretSource, ...]
    tls: TlsSource
    broker: tuple[str, int]
    tee: TeeSource

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Parse a project file.

        Raises:
            MalformedError: ``project.*`` naming the field.
        """
        try:
            if len(text.encode()) > _MAX_SIZE:
                raise ValueError(f"more than {_MAX_SIZE} bytes")
            table = MapReader(tomllib.loads(text), what="project")
        except (ValueError, RecursionError) as error:
            raise MalformedError(
                "project.toml", "the project file is not TOML", field=FILE_NAME,
                expected=f"TOML 1.0, at most {_MAX_SIZE} bytes", got=str(error),
            ) from error  # fmt: skip
        if (version := table.take("version", int)) != _VERSION:
            raise _wrong("project.version", str(_VERSION), str(version))
        manifest = cls(
            name=_matching(table, "name", _SERVICE, "lower-case letters, digits and -"),
            workload=_workload(table.take_map("workload")),
            images=tuple(_images(table)),
            secrets=tuple(_secrets(table)),
            tls=_tls(table.take_map("tls")),
            broker=_broker(table.take_optional_map("broker")),
            tee=_tee(table.take_map("tee")),
        )
        table.finish()
        _check_names(manifest)
        return manifest

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line with the port in its place."""
        return tuple(part.replace(PORT, str(self.workload.port)) for part in self.workload.argv)


def _workload(table: MapReader) -> Workload:
    argv = table.take_texts("argv")
    if not argv:
        raise _wrong("project.workload.argv", "a command line", "an empty array")
    workload = Workload(
        argv=argv,
        port=_port(table, "port"),
        environment=_texts(table.take_optional_map("environment")),
        host_environment=_texts(table.take_optional_map("host-environment")),
        working_directory=table.take_optional("working-directory", str) or "/",
        uid=_number(table, "uid"),
        gid=_number(table, "gid"),
    )
    table.finish()
    return workload


def _images(table: MapReader) -> list[ImageSource]:
    images = []
    for index, value in enumerate(table.take_list("images")):
        each = MapReader(value, what=f"project.images[{index}]")
        name, mount = _matching(each, "name", _NAME, "a name"), each.take("mount", str)
        default = "image_key" if mount == "/" else f"{name}_key"
        images.append(
            ImageSource(
                name=name,
                source=each.take("source", str),
                mount=mount,
                key=each.take_optional("key", str) or default,
            )
        )
        each.finish()
    roots = sum(image.mount == "/" for image in images)
    if roots != 1:
        raise _wrong("project.images", 'exactly one with mount = "/"', f"{roots} of them")
    return images


def _secrets(table: MapReader) -> list[SecretSource]:
    if "secrets" not in table.names():
        return []
    secrets = []
    for index, value in enumerate(table.take_list("secrets")):
        each = MapReader(value, what=f"project.secrets[{index}]")
        secrets.append(
            SecretSource(
                name=_matching(each, "name", _NAME, "a name"),
                file=each.take("file", str),
                path=each.take("path", str),
                mode=each.take_optional("mode", str) or "0400",
            )
        )
        each.finish()
    return secrets


def _tls(table: MapReader) -> TlsSource:
    text = table.take("form", str)
    if text not in set(TlsForm):
        raise _wrong("project.tls.form", " or ".join(TlsForm), text)
    form = TlsForm(text)
    hosts: tuple[str, ...] = ("localhost",)
    if form is not TlsForm.NONE and "hosts" in table.names():
        hosts = table.take_texts("hosts")
    identity, days = TlsIdentityFrom.SECRET, DEFAULT_DAYS
    if form is not TlsForm.NONE:
        named = table.take_optional("identity", str) or identity.value
        if named not in set(TlsIdentityFrom):
            raise _wrong("project.tls.identity", " or ".join(TlsIdentityFrom), named)
        identity = TlsIdentityFrom(named)
        days = table.take_optional("days", int) or days
    match form:
        case TlsForm.TENSORFLOW_SERVING:
            path = table.take_optional("path", str) or "/etc/tf_ssl.cfg"
            placements = {"ssl_config": path}
        case TlsForm.PEM:
            placements = {
                "tls_key": table.take_optional("key", str) or "/etc/tls/server.key",
                "tls_certificate": table.take_optional("certificate", str) or "/etc/tls/server.crt",
            }
        case TlsForm.NONE:
            placements = {}
    table.finish()
    if not hosts:
        raise _wrong("project.tls.hosts", "at least one name", "an empty array")
    return TlsSource(
        form=form, identity=identity, hosts=hosts, days=days,
        placements=MappingProxyType(placements),
    )  # fmt: skip


def _broker(table: MapReader | None) -> tuple[str, int]:
    if table is None:
        return "localhost", 50051
    server = table.take_optional("server", str) or "localhost"
    port = _port(table, "port") if "port" in table.names() else 50051
    table.finish()
    return server, port


def _tee(table: MapReader) -> TeeSource:
    kind, policy = table.take("kind", str), table.take_optional("policy", str)
    known = [str(tee) for tee in Tee if tee in CHOICES]  # what a launcher can attest by
    if kind not in known:
        raise _wrong("project.tee.kind", " or ".join(known), kind)
    if (policy is None) != (kind == Tee.SIMULATED):
        raise _wrong(
            "project.tee.policy",
            "none: it is derived" if policy else "a release policy for this hardware",
            policy or "nothing",
        )
    table.finish()
    return TeeSource(kind=Tee(kind), policy=policy)


def _check_names(manifest: Manifest) -> None:
    """No two things have one name; two images may have one key."""
    for what, names in (
        ("images", [image.name for image in manifest.images]),
        (
            "secrets",
            [
                *{image.key for image in manifest.images},
                *manifest.tls.secrets,
                *(secret.name for secret in manifest.secrets),
            ],
        ),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _wrong(f"project.{what}", "names that differ", f"{twice[0]} twice")


def _texts(table: MapReader | None) -> Mapping[str, str]:
    if table is None:
        return MappingProxyType({})
    return MappingProxyType({name: table.take(name, str) for name in table.names()})


def _number(table: MapReader, field: str) -> int:
    value = table.take_optional(field, int)
    return _ORDINARY_USER if value is None else value


def _port(table: MapReader, field: str) -> int:
    port = table.take(field, int)
    if not 0 < port <= _MAX_PORT:
        raise _wrong(table.name(field), f"1 to {_MAX_PORT}", str(port))
    return port


def _matching(table: MapReader, field: str, pattern: re.Pattern[str], expected: str) -> str:
    value = table.take(field, str)
    if not pattern.match(value):
        raise _wrong(table.name(field), expected, repr(value)[:64])
    return value


def _wrong(field: str, expected: str, got: str) -> MalformedError:
    return MalformedError(
        "project.field",
        f"the project file is wrong at {field}",
        field=field,
        expected=expected,
        got=got,
        remedy="specs/project-file.md lists every field; casemate new writes a commented one.",
    )
