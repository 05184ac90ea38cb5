"""The launch contract: what a launcher may start, in one document whose digest is attested.

The host hands the document over and decides nothing in it: the broker releases secrets only to a
launcher whose evidence binds the SHA-384 of the contract that the policy names.

Source: specs/launch-contract.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from casemate.encoding import MapReader, decode_cbor, decode_ed25519_spki, encode_cbor
from casemate.protocol.contract_certificate import (
    CertificatePlacement,
    check_certificate,
    read_certificate,
    wrong,
)
from casemate.types import Sha384, sha384

MAX_SIZE = 256 * 1024
_VERSION = 1
_MAX_ITEMS = 1024
_MAX_SECRETS = 64  # as many names as a broker takes in a request (specs/key-broker.md)
_MAX_TEXT = 32 * 1024
_MAX_PATH = 4095
_MAX_PART = 255
_MAX_PATTERN = 256
_MAX_ID = 2**31 - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]{2,45}\]|[A-Za-z0-9._-]{1,253}):([0-9]{1,5})\Z", re.ASCII)
# What a pattern may be made of: characters, classes and repetitions; no groups, no alternation, no
# back references, and a bare "-" in a class only within a range or at its end, so that every
# regular-expression library agrees on it.
_PATTERN = re.compile(
    r"(?:(?:\[\^?(?:[A-Za-z0-9]-[A-Za-z0-9]|[A-Za-z0-9_./:@%+=, ]|\\[.\-\]\\^])+-?\]"
    r"|[A-Za-z0-9_/:@%=, -]|\\[.\-+*?^$()\[\]{}|\\])"
    r"(?:[*+?]|\{[0-9]{1,4}(?:,[0-9]{0,4})?\})?)*\Z",
    re.ASCII,
)
# Folders over which a launcher puts the kernel's own, on most machines.
_KERNEL = re.compile(r"/(dev|proc|sys)(/|\Z)")
# Variables that change which code runs inside the workload; never the host's to set.
_LOADER = re.compile(r"(LD_|PYTHON|GCONV_PATH|MALLOC_|GLIBC_TUNABLES|BASH_ENV|ENV\Z|IFS\Z)")


class TlsMode(StrEnum):
    """Where the workload's TLS identity comes from."""

    NONE = "none"
    """The workload speaks no TLS, or brings its own."""
    SECRET = "secret"  # noqa: S105
    """A secret that the broker releases, placed as a file."""
    ATTESTED = "attested"
    """A key that the launcher makes in the TEE, with a certificate that carries evidence of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageMount:
    """A sealed image and where it is mounted.

    Args:
        name: by which the host finds the file; means nothing else.
        id: SHA-384 of the image's header: pins every byte.
        key: the secret that is its image key.
        mount: absolute path in the new root; ``/`` for the root file system itself.
    """

    name: str
    id: Sha384
    key: str
    mount: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretPlacement:
    """A secret that becomes a file in the new root.

    Args:
        name: the secret.
        path: absolute path of the file.
        mode: its permission bits; the workload's user owns it.
    """

    name: str
    path: str
    mode: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerIdentity:
    """Which broker the launcher talks to, and how it knows it.

    Args:
        address: ``host:port``.
        key: DER SubjectPublicKeyInfo (Ed25519) of the broker's identity key; None where ``policy``
            is given.
        policy: the text of a policy document whose policies must all hold for the broker's
            evidence; None where ``key`` is given.
    """

    address: str
    key: bytes | None = None
    policy: str | None = None

    @property
    def endpoint(self) -> tuple[str, int]:
        """The address as host and port."""
        host, _, port = self.address.rpartition(":")
        return host.removeprefix("[").removesuffix("]"), int(port)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchContract:
    """Everything that a launcher may do.

    Args:
        argv: the workload's command line; the first is an absolute path in the new root.
        environment: variables with their exact values.
        host_environment: variables that the host may set, each with the pattern that the whole
            value must match.
        working_directory: absolute path in the new root.
        uid: the workload's user.
        gid: its group.
        images: what is mounted; exactly one at ``/``.
        secrets: what is placed as files.
        broker: who releases the secrets.
        tls: where the workload's TLS identity comes from.
        certificate: what the launcher mints where that is itself, and only there.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    host_environment: Mapping[str, str]
    working_directory: str
    uid: int
    gid: int
    images: tuple[ImageMount, ...]
    secrets: tuple[SecretPlacement, ...]
    broker: BrokerIdentity
    tls: TlsMode
    certificate: CertificatePlacement | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "environment", MappingProxyType(dict(self.environment)))
        object.__setattr__(self, "host_environment", MappingProxyType(dict(self.host_environment)))
        _check(self)

    @property
    def secret_names(self) -> tuple[str, ...]:
        """Every secret that the launcher asks for, each once: image keys, then placements."""
        keys = [image.key for image in self.images]
        return tuple(dict.fromkeys(keys + [secret.name for secret in self.secrets]))

    def encode(self) -> bytes:
        """The contract as deterministic CBOR."""
        broker: dict[str, str | bytes] = {"address": self.broker.address}
        if self.broker.key is not None:
            broker["key"] = self.broker.key
        if self.broker.policy is not None:
            broker["policy"] = self.broker.policy
        minted = {} if self.certificate is None else {"certificate": self.certificate.as_map()}
        return encode_cbor(
            {
                "version": _VERSION,
                "argv": list(self.argv),
                "environment": dict(self.environment),
                "host-environment": dict(self.host_environment),
                "working-directory": self.working_directory,
                "uid": self.uid,
                "gid": self.gid,
                "images": [
                    {"name": i.name, "id": bytes(i.id), "key": i.key, "mount": i.mount}
                    for i in self.images
                ],
                "secrets": [{"name": s.name, "path": s.path, "mode": s.mode} for s in self.secrets],
                "broker": broker,
                "tls": self.tls.value,
                **minted,
            }
        )

    def digest(self) -> Sha384:
        """What evidence binds: SHA-384 of the encoding."""
        return sha384(self.encode())

    @classmethod
    def parse(cls, data: bytes) -> LaunchContract:
        """Parse a contract.

        Args:
            data: deterministic CBOR, at most 256 KiB.

        Raises:
            MalformedError: ``contract.*`` or ``encoding.*``, naming the field.
        """
        top = MapReader(
            decode_cbor(data, what="launch contract", max_size=MAX_SIZE), what="contract"
        )
        return read_contract(top)


def read_contract(top: MapReader) -> LaunchContract:
    """Read a contract's fields out of a decoded map.

    Raises:
        MalformedError: see `LaunchContract.parse`.
    """
    version = top.take("version", int)
    if version != _VERSION:
        raise wrong("contract.version", str(_VERSION), str(version))
    images = []
    for index, value in enumerate(top.take_list("images")):
        item = MapReader(value, what=f"contract.images[{index}]")
        image = ImageMount(
            name=item.take("name", str),
            id=Sha384(item.take("id", bytes)),
            key=item.take("key", str),
            mount=item.take("mount", str),
        )
        item.finish()
        images.append(image)
    secrets = []
    for index, value in enumerate(top.take_list("secrets")):
        item = MapReader(value, what=f"contract.secrets[{index}]")
        secret = SecretPlacement(
            name=item.take("name", str), path=item.take("path", str), mode=item.take("mode", int)
        )
        item.finish()
        secrets.append(secret)
    peer = top.take_map("broker")
    broker = BrokerIdentity(
        address=peer.take("address", str),
        key=peer.take_optional("key", bytes),
        policy=peer.take_optional("policy", str),
    )
    peer.finish()
    tls = top.take("tls", str)
    if tls not in {mode.value for mode in TlsMode}:
        raise wrong("contract.tls", " or ".join(TlsMode), tls)
    minted = top.take_optional_map("certificate")
    contract = LaunchContract(
        argv=top.take_texts("argv"),
        environment=_texts(top.take_map("environment")),
        host_environment=_texts(top.take_map("host-environment")),
        working_directory=top.take("working-directory", str),
        uid=top.take("uid", int),
        gid=top.take("gid", int),
        images=tuple(images),
        secrets=tuple(secrets),
        broker=broker,
        tls=TlsMode(tls),
        certificate=read_certificate(minted) if minted is not None else None,
    )
    top.finish()
    return contract


def _texts(table: MapReader) -> dict[str, str]:
    return {name: table.take(name, str) for name in table.names()}


def _check(contract: LaunchContract) -> None:
    """The rules of specs/launch-contract.md, in its order."""
    # Rule 1: the command line.
    if not contract.argv or not _is_path(contract.argv[0]) or contract.argv[0] == "/":
        raise wrong("contract.argv[0]", "an absolute path of a program", repr(contract.argv[:1]))
    for index, argument in enumerate(contract.argv):
        _check_text(f"contract.argv[{index}]", argument)
    # Rule 2: the environment, and what the host may add to it.
    for name, value in contract.environment.items():
        _check_variable(f"contract.environment.{name}", name)
        _check_text(f"contract.environment.{name}", value)
    for name, pattern in contract.host_environment.items():
        field = f"contract.host-environment.{name}"
        _check_variable(field, name)
        if name in contract.environment:
            raise wrong(field, "a variable that the contract doesn't set itself", name)
        if _LOADER.match(name):
            raise wrong(field, "a variable that doesn't change which code runs", name)
        _check_pattern(field, pattern)
    # Rule 3: where and as whom.
    if not _is_path(contract.working_directory):
        raise wrong(
            "contract.working-directory", "an absolute path", repr(contract.working_directory)
        )
    for field, number in (("uid", contract.uid), ("gid", contract.gid)):
        if not 0 <= number <= _MAX_ID:
            raise wrong(f"contract.{field}", f"0 to {_MAX_ID}", str(number))
    _check_images(contract)
    _check_secrets(contract)
    _check_broker(contract.broker)
    # Rule 7: what a launcher takes, and what a broker can be asked for.
    if len(contract.secret_names) > _MAX_SECRETS:
        got = f"{len(contract.secret_names)}"
        raise wrong("contract", f"at most {_MAX_SECRETS} secrets by name, image keys included", got)
    if (size := len(contract.encode())) > MAX_SIZE:
        raise wrong("contract", f"at most {MAX_SIZE} bytes", f"{size} bytes")


def _check_images(contract: LaunchContract) -> None:
    # Rule 4: one root; no image twice, none inside another but the root's.
    _check_count("contract.images", contract.images)
    mounts = [image.mount for image in contract.images]
    for index, image in enumerate(contract.images):
        where = f"contract.images[{index}]"
        _check_name(f"{where}.name", image.name)
        _check_name(f"{where}.key", image.key)
        if not _is_path(image.mount):
            raise wrong(f"{where}.mount", "an absolute path without '.' or '..'", image.mount)
        if _KERNEL.match(image.mount):
            raise wrong(f"{where}.mount", "a path outside /dev, /proc and /sys", image.mount)
        for other in mounts[:index]:
            if other != "/" and (image.mount + "/").startswith(other + "/"):
                raise wrong(f"{where}.mount", "a path outside other images", image.mount)
            if image.mount != "/" and (other + "/").startswith(image.mount + "/"):
                raise wrong(f"{where}.mount", "a path that holds no other image", image.mount)
    if mounts.count("/") != 1:
        raise wrong("contract.images", "exactly one image at /", f"{mounts.count('/')}")
    names = [image.name for image in contract.images]
    if len(set(names)) != len(names):
        raise wrong("contract.images", "names that differ", ", ".join(names))


def _check_secrets(contract: LaunchContract) -> None:
    # Rule 5: each secret in a place of its own, readable by no more than user and group.
    _check_count("contract.secrets", contract.secrets)
    for index, secret in enumerate(contract.secrets):
        _check_name(f"contract.secrets[{index}].name", secret.name)
    # Rule 8: so are key and certificate, where the launcher makes them.
    minted = contract.certificate
    if (minted is None) is (contract.tls is TlsMode.ATTESTED):
        got = "none" if minted is None else f"one, and tls = {contract.tls.value}"
        raise wrong("contract.certificate", 'one exactly where tls is "attested"', got)
    if minted is not None:
        check_certificate(minted)
    paths: list[str] = []
    for field, mode_field, path, mode in _places(contract):
        _check_place(contract, field, path, beside=paths)
        if mode & ~0o770 or not mode & 0o400:
            raise wrong(mode_field, "0400 to 0770, nothing for others", oct(mode))
        paths.append(path)


def _places(contract: LaunchContract) -> Iterator[tuple[str, str, str, int]]:
    """Every file that a launcher writes: names of the fields of its path and mode, and these."""
    for index, secret in enumerate(contract.secrets):
        where = f"contract.secrets[{index}]"
        yield f"{where}.path", f"{where}.mode", secret.path, secret.mode
    where = "contract.certificate"
    if (minted := contract.certificate) is not None:
        for index, path in enumerate(minted.files):
            yield f"{where}.files[{index}]", f"{where}.mode", path, minted.mode


def _check_place(contract: LaunchContract, field: str, path: str, *, beside: list[str]) -> None:
    if not _is_path(path) or path == "/":
        raise wrong(field, "the absolute path of a file", path)
    if _KERNEL.match(path):
        raise wrong(field, "a path outside /dev, /proc and /sys", path)
    for other in beside:
        if (other + "/").startswith(path + "/") or (path + "/").startswith(other + "/"):
            raise wrong(field, "a path of its own", path)
    for image in contract.images:
        if image.mount != "/" and (path + "/").startswith(image.mount + "/"):
            raise wrong(field, "a path outside mounted volumes", path)
        if (image.mount + "/").startswith(path + "/"):
            raise wrong(field, "no folder that holds a volume", path)


def _check_broker(broker: BrokerIdentity) -> None:
    # Rule 6: one address, one way to know who answers there.
    match = _ADDRESS.match(broker.address)
    if not match or not 0 < int(match[2]) < 65536:
        raise wrong("contract.broker.address", "HOST:PORT", repr(broker.address))
    if (broker.key is None) == (broker.policy is None):
        raise wrong("contract.broker", "exactly one of key and policy", "both or neither")
    if broker.key is not None:
        decode_ed25519_spki(broker.key, field="contract.broker.key")


def _is_path(path: str) -> bool:
    if path == "/":
        return True
    parts = path.split("/")
    return (
        len(path.encode()) <= _MAX_PATH
        and path.startswith("/")
        and all(
            part not in {"", ".", ".."} and len(part.encode()) <= _MAX_PART for part in parts[1:]
        )
        and not _CONTROL.search(path)
    )


def _check_count(field: str, items: Sized) -> None:
    if len(items) > _MAX_ITEMS:
        raise wrong(field, f"at most {_MAX_ITEMS}", str(len(items)))


def _check_pattern(field: str, pattern: str) -> None:
    if len(pattern) > _MAX_PATTERN or not _PATTERN.match(pattern):
        raise wrong(field, "a pattern of characters, classes and repetitions", repr(pattern))
    try:
        re.compile(pattern, re.ASCII)
    except re.error as error:  # the one thing that the grammar leaves open: bounds out of order
        raise wrong(field, "ranges and repetitions in order", repr(pattern)) from error


def _check_name(field: str, name: str) -> None:
    if not _NAME.match(name):
        raise wrong(field, "letters, digits, '.', '_' and '-', at most 64", repr(name))


def _check_variable(field: str, name: str) -> None:
    if not _VARIABLE.match(name):
        raise wrong(field, "a variable's name", repr(name))


def _check_text(field: str, text: str) -> None:
    size = len(text.encode())
    if "\x00" in text or size > _MAX_TEXT:
        raise wrong(field, f"at most {_MAX_TEXT} bytes, no NUL", f"{size} bytes")
