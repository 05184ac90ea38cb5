"""The simulated TEE: evidence signed by a development root of the user's own.

It protects nothing: whoever runs the machine holds the root's key. It exists so that the whole
flow runs anywhere, with the same checks as on real hardware. Its measurement is computed from the
launcher's own files, so that changed code is denied here too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

import casemate
from casemate.errors import UsageError
from casemate.evidence import Evidence, Tee
from casemate.evidence.simulated import (
    SIGNATURE_CONTEXT,
    SimulatedReport,
    encode_simulated_evidence,
    encode_simulated_report,
)
from casemate.types import ReportData, Sha256, Sha384, sha256, sha384

SVN = 1
"""Security version number of the launcher. Raise it with every fix that policies should demand."""

# fmt: off
_COMMON_PACKAGES = (
    "channel", "encoding", "endorsements", "errors", "evidence", "policy", "protocol", "tee",
    "types", "verify",
)
_LAUNCHER_PACKAGES = (*_COMMON_PACKAGES, "image", "launcher")
_BROKER_PACKAGES = (*_COMMON_PACKAGES, "broker")
# fmt: on
MEASURED_DISTRIBUTIONS = (
    "cbor2",
    "cffi",
    "cryptography",
    "grpcio",
    "protobuf",
    "pyopenssl",
    "typing_extensions",
)
CODE_SUFFIXES = (".py", ".so")


def development_root_path() -> Path:
    """Where a user's development root lies, unless a command is told otherwise."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "casemate" / "development-root.pem"


@dataclass(frozen=True, slots=True)
class DevelopmentRoot:
    """The key that signs simulated evidence."""

    _key: Ed25519PrivateKey

    @classmethod
    def load_or_create(cls, path: Path) -> DevelopmentRoot:
        """Read the root at ``path``, or make one there, readable by its owner alone.

        Raises:
            UsageError: ``tee.development-root`` where the file holds something else.
        """
        try:
            pem = path.read_bytes() if path.exists() else _create(path)
            key = load_pem_private_key(pem, password=None)
        except (OSError, ValueError, TypeError) as error:
            raise _unusable(path, str(error)) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise _unusable(path, type(key).__name__)
        return cls(key)

    @property
    def spki(self) -> bytes:
        """The public key: DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, report: SimulatedReport) -> bytes:
        """Simulated evidence that carries ``report``."""
        signed = encode_simulated_report(report)
        return encode_simulated_evidence(signed, self._key.sign(SIGNATURE_CONTEXT + signed))


class SimulatedTee:
    """An Attester for development.

    Args:
        root: who signs.
        measurement: what is attested, usually `measure_launcher`'s result.
        debug: what the evidence says of debugging.
    """

    def __init__(self, root: DevelopmentRoot, *, measurement: Sha384, debug: bool = False) -> None:
        self._root = root
        self._measurement = measurement
        self._debug = debug

    def attest(self, report_data: ReportData) -> Evidence:
        """Simulated evidence that binds ``report_data``."""
        spki = self._root.spki
        report = SimulatedReport(
            measurement=self._measurement,
            report_data=report_data,
            root=sha256(spki),
            platform_id=platform_id(),
            svn=SVN,
            debug=self._debug,
        )
        return Evidence(tee=Tee.SIMULATED, data=self._root.sign(report))

    def extend(self, digest: Sha384) -> str | None:
        """It has no register for what runs: the claims say it alone."""
        del digest
        return None


def platform_id(machine_id: Path = Path("/etc/machine-id")) -> Sha256:
    """Names this machine, by its systemd machine id, or by nothing where it has none."""
    try:
        machine = machine_id.read_bytes().strip()
    except OSError:
        machine = b""
    return sha256(b"casemate-simulated-platform/1\x00" + machine)


def measure_launcher(package: Path | None = None) -> Sha384:
    """Measure the launcher: the ``.py`` and ``.so`` files of its packages and dependencies.

    The interpreter and its standard library are not among them: a real TEE measures them, a
    simulated one isn't trusted anyway.

    Args:
        package: the folder of the ``casemate`` package; the running one if not given.

    Source: specs/simulated-evidence.md, "Measurement".
    """
    root = package or Path(casemate.__file__).parent
    return measure_files(_measured_files(root, _LAUNCHER_PACKAGES))


def measure_broker() -> Sha384:
    """Measure the running broker the same way, over its own packages."""
    return measure_files(_measured_files(Path(casemate.__file__).parent, _BROKER_PACKAGES))


def measure_files(files: Iterable[tuple[str, Path]]) -> Sha384:
    """SHA-384 over a sorted list with a line ``<name> <SHA-256 in hex>`` for each file.

    Source: specs/simulated-evidence.md, "Measurement".
    """
    lines = []
    for name, path in files:
        with path.open("rb") as file:
            lines.append(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    lines.sort()
    return sha384("".join(lines).encode())


def _measured_files(root: Path, packages: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    yield "casemate/__init__.py", root / "__init__.py"
    for package in packages:
        for path in (root / package).rglob("*"):
            if path.suffix in CODE_SUFFIXES:
                yield f"casemate/{path.relative_to(root).as_posix()}", path
    for name in MEASURED_DISTRIBUTIONS:
        try:
            files = metadata.distribution(name).files or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.suffix in CODE_SUFFIXES:
                yield f"{name}/{file.as_posix()}", Path(str(file.locate()))


def _create(path: Path) -> bytes:
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
    except BaseException:  # half a key would be in the way of the next attempt
        path.unlink(missing_ok=True)
        raise
    return pem


def _unusable(path: Path, got: str) -> UsageError:
    return UsageError(
        "tee.development-root",
        f"the development root {path} can't be used",
        field="development root",
        expected="an Ed25519 private key in PEM",
        got=got,
        remedy="Move the file away; the next run makes a new one (policies must then name it).",
    )
