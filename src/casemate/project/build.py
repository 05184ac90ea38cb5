"""From a project file to what runs: sealed images, keys, TLS, launch contract, release policy.

Source: specs/project-file.md, "What is built".
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from casemate.errors import MalformedError, UsageError
from casemate.evidence import Tee
from casemate.image.keys import encode_key_file, generate_key, read_key_file
from casemate.image.seal import SealedImageInfo, seal
from casemate.image.workers import Progress
from casemate.policy import AnyOf, PolicyDocument
from casemate.project.files import (
    read_file,
    read_text,
    replace_private,
    replace_public,
    write_private,
    write_public,
)
from casemate.project.keys import load_public_key, make_identity_key
from casemate.project.manifest import (
    FILE_NAME,
    ImageSource,
    Manifest,
    TlsForm,
    TlsIdentityFrom,
    TlsSource,
)
from casemate.project.policies import policy_for_launcher
from casemate.project.sources import read_source
from casemate.project.tls import make_tls_identity, tensorflow_serving_ssl_config
from casemate.protocol.contract import (
    BrokerIdentity,
    ImageMount,
    LaunchContract,
    SecretPlacement,
    TlsMode,
)
from casemate.protocol.contract_certificate import CertificateForm, CertificatePlacement
from casemate.tee.simulated import DevelopmentRoot, measure_launcher
from casemate.types import Sha384

_SCHEMES = ("bom:", "oci:", "docker-archive:", "model:")
_TLS_MODE = 0o400


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project file, and the folder of what is built from it.

    Args:
        base: the folder that holds the project file.
        manifest: its content.
    """

    base: Path
    manifest: Manifest

    @classmethod
    def load(cls, base: Path) -> Project:
        """Read the project file of a folder.

        Raises:
            UsageError: there is none.
            MalformedError: see `Manifest.parse`.
        """
        path = base / FILE_NAME
        if not path.exists():
            raise UsageError(
                "project.none", f"{base} holds no {FILE_NAME}", field="--project",
                remedy="Make one with: casemate new",
            )  # fmt: skip
        manifest = Manifest.parse(read_text(path, field=FILE_NAME))
        return cls(base=base.resolve(), manifest=manifest)

    def at(self, *, server: str | None, port: int | None) -> Project:
        """The same project with its broker elsewhere, where that is given."""
        old_server, old_port = self.manifest.broker
        broker = (server or old_server, port or old_port)
        return dataclasses.replace(self, manifest=dataclasses.replace(self.manifest, broker=broker))

    @property
    def folder(self) -> Path:
        """What is built."""
        return self.base / ".casemate"

    @property
    def images(self) -> Path:
        """Where the sealed images go."""
        return self.folder / "images"

    @property
    def secrets(self) -> Path:
        """What the broker holds: a file a secret."""
        return self.folder / "secrets"

    @property
    def certificate(self) -> Path:
        """What clients trust."""
        return self.folder / "server.crt"

    @property
    def identity(self) -> Path:
        """The broker's identity key."""
        return self.folder / "broker.key"

    @property
    def identity_public(self) -> Path:
        """Its public half, which the contract pins."""
        return self.folder / "broker.key.pub"

    @property
    def development_root(self) -> Path:
        """The simulated TEE's key."""
        return self.folder / "development-root.pem"

    @property
    def contract(self) -> Path:
        """The encoded launch contract."""
        return self.folder / "launch.cbor"

    @property
    def policy(self) -> Path:
        """The release policy."""
        return self.folder / "policy.toml"

    @property
    def audit(self) -> Path:
        """The broker's audit trail."""
        return self.folder / "audit" / "audit.jsonl"

    @property
    def broker_address(self) -> str:
        """``HOST:PORT`` of the broker, for launchers."""
        host, port = self.manifest.broker
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def build_images(
    project: Project,
    progress: Callable[[str], Progress] | None = None,
    warn: Callable[[str], None] = lambda _: None,
) -> Iterator[SealedImageInfo]:
    """Seal the images of a project, one after the other, each under a key of its own.

    Args:
        project: see there.
        progress: for the name of an image, whoever is told how far its sealing is.
        warn: told what may be missing in an image.

    Raises:
        UsageError, MalformedError: a source can't be sealed.
    """
    project.folder.mkdir(mode=0o700, exist_ok=True)
    for image in project.manifest.images:
        tree = read_source(_source(project, image))
        for warning in tree.warnings:
            warn(f"{image.name}: {warning}")
        key = project.secrets / image.key
        _bring_back(project, image.key)
        if not key.exists():
            write_private(key, encode_key_file(generate_key()).reveal())
        yield seal(
            tree.entries,
            read_key_file(key),
            project.images / f"{image.name}.sealed",
            progress=progress(image.name) if progress is not None else None,
        )


def build_contract_and_policy(
    project: Project, images: Mapping[str, Sha384], *, now: datetime.datetime
) -> LaunchContract:
    """Make keys and TLS where they aren't there yet, then the contract and the policy.

    Args:
        project: see there.
        images: the id of each sealed image, by name.
        now: the time, for certificates.

    Raises:
        UsageError, MalformedError: the contract or policy can't be made, naming the field.
    """
    manifest = project.manifest
    if not project.identity.exists():
        private, public = make_identity_key()
        write_public(project.identity_public, public)
        write_private(project.identity, private.reveal())
    _build_tls(project, now)
    for secret in manifest.secrets:
        content = read_file(project.base / secret.file, field=f"project.secrets.{secret.name}")
        replace_private(project.secrets / secret.name, content)
    contract = _contract(project, images)
    _set_aside(project, wanted=contract.secret_names)
    policy = _policy(project, contract)
    replace_public(project.contract, contract.encode())
    replace_public(project.policy, policy.render().encode())
    return contract


def _source(project: Project, image: ImageSource) -> str:
    scheme = next((each for each in _SCHEMES if image.source.startswith(each)), "")
    rest = image.source.removeprefix(scheme)
    return image.source if scheme == "bom:" else f"{scheme}{project.base / rest}"


def _contract(project: Project, images: Mapping[str, Sha384]) -> LaunchContract:
    manifest = project.manifest
    tls = [
        SecretPlacement(name=name, path=path, mode=_TLS_MODE)
        for name, path in manifest.tls.secrets.items()
    ]
    others = [
        SecretPlacement(name=each.name, path=each.path, mode=_octal(each.name, each.mode))
        for each in manifest.secrets
    ]
    workload = manifest.workload
    return LaunchContract(
        argv=manifest.argv,
        environment=workload.environment,
        host_environment=workload.host_environment,
        working_directory=workload.working_directory,
        uid=workload.uid,
        gid=workload.gid,
        images=tuple(
            ImageMount(name=each.name, id=images[each.name], key=each.key, mount=each.mount)
            for each in manifest.images
        ),
        secrets=(*tls, *others),
        broker=BrokerIdentity(
            address=project.broker_address, key=load_public_key(project.identity_public)
        ),
        tls=TlsMode.NONE
        if manifest.tls.form is TlsForm.NONE
        else TlsMode(manifest.tls.identity.value),
        certificate=_certificate(manifest.tls),
    )


def _certificate(tls: TlsSource) -> CertificatePlacement | None:
    """What the launcher mints, where it is to."""
    if tls.identity is not TlsIdentityFrom.ATTESTED:
        return None
    return CertificatePlacement(
        form=CertificateForm(tls.form.value), names=tls.hosts, days=tls.days,
        files=tuple(tls.placements.values()), mode=_TLS_MODE,
    )  # fmt: skip


def _policy(project: Project, contract: LaunchContract) -> PolicyDocument:
    tee = project.manifest.tee
    if tee.kind is Tee.SIMULATED:
        root = DevelopmentRoot.load_or_create(project.development_root)
        return policy_for_launcher(contract, root=root, measurement=measure_launcher())
    assert tee.policy is not None
    given = PolicyDocument.parse(read_text(project.base / tee.policy, field="project.tee.policy"))
    if given.secrets:
        raise MalformedError(
            "project.policy",
            "the policy of a project names secrets",
            field="project.tee.policy",
            expected="policies alone: which secrets there are, the contract says",
            got=", ".join(given.secrets),
        )
    launch = AnyOf((bytes(contract.digest()),))
    policies = {
        name: dataclasses.replace(
            policy,
            alternatives=tuple(
                dataclasses.replace(each, constraints={**each.constraints, "launch": launch})
                for each in policy.alternatives
            ),
        )
        for name, policy in given.policies.items()
    }
    return PolicyDocument(
        policies=policies, secrets=dict.fromkeys(contract.secret_names, tuple(policies))
    )


def _build_tls(project: Project, now: datetime.datetime) -> None:
    tls = project.manifest.tls
    wanted = [project.secrets / name for name in tls.secrets]
    if not wanted:
        project.certificate.unlink(missing_ok=True)  # that of an earlier build is nobody's any more
        return
    if all(path.exists() for path in wanted) and _serves(project, now):
        return
    identity = make_tls_identity(tls.hosts, now=now, days=tls.days)
    if tls.form is TlsForm.PEM:
        replace_private(project.secrets / "tls_key", identity.private_key.reveal())
        replace_private(project.secrets / "tls_certificate", identity.certificate)
    else:
        config = tensorflow_serving_ssl_config(identity)
        replace_private(project.secrets / "ssl_config", config.reveal())
    replace_public(project.certificate, identity.certificate)


def _serves(project: Project, now: datetime.datetime) -> bool:
    """Whether the certificate of an earlier build does: its hosts, and a third of its life left."""
    if not project.certificate.exists():
        return False
    certificate = x509.load_pem_x509_certificate(project.certificate.read_bytes())
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = tuple(str(name.value) for name in names)
    return hosts == project.manifest.tls.hosts and end - now > (end - start) / 3


def _set_aside(project: Project, *, wanted: tuple[str, ...]) -> None:
    """Move what the broker isn't to hold any more out of its folder; a key may still be needed."""
    for path in sorted(project.secrets.iterdir()):
        if path.name not in wanted:
            unused = project.folder / "unused"
            unused.mkdir(mode=0o700, exist_ok=True)
            path.replace(unused / path.name)


def _bring_back(project: Project, name: str) -> None:
    """What was set aside, where it is wanted again."""
    unused = project.folder / "unused" / name
    if unused.exists() and not (project.secrets / name).exists():
        unused.replace(project.secrets / name)


def _octal(name: str, text: str) -> int:
    if not 0 < len(text) <= 5 or set(text) - set("01234567"):
        raise MalformedError(
            "project.field", "a secret's mode is wrong", field=f"project.secrets.{name}.mode",
            expected='octal digits, such as "0400"', got=text[:16],
        )  # fmt: skip
    return int(text, 8)
