"""The bill of software of a container image, CycloneDX: what it is made of, by name and version.

What a file belongs to is looked up where it was taken from: an installed Python distribution, a
package of Debian's, or neither, and then the file itself is a component, with its digest. The same
image gives the same document.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from casemate import __version__
from casemate.image.tree import EntryKind, TreeEntry
from casemate.project.package import Packaged

MEDIA_TYPE = "application/vnd.cyclonedx+json"
_DPKG = Path("/var/lib/dpkg")
_ELF = b"\x7fELF"
_METADATA = ".dist-info/METADATA"


def software_of(packaged: Packaged) -> bytes:
    """The bill of software of an image: CycloneDX 1.6, JSON."""
    entries = [each for each in packaged.root.entries if each.kind is EntryKind.FILE]
    components = {each.bom_ref.value: each for each in _components(entries)}
    root = Component(
        name=packaged.reference, version=packaged.image.digest, type=ComponentType.CONTAINER,
        bom_ref=packaged.reference,
    )  # fmt: skip
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, packaged.image.digest),
        components=list(components.values()),
        metadata=BomMetaData(component=root),
    )
    bom.register_dependency(root, components.values())
    bom.metadata.timestamp = None  # type: ignore[assignment]  # the same image, the same document
    return JsonV1Dot6(bom).output_as_string(indent=1).encode()


def _components(entries: list[TreeEntry]) -> Iterator[Component]:
    yield Component(name="casemate", version=__version__, bom_ref="casemate")
    yield from _distributions(entries)
    owners = _debian_owners()
    versions = _debian_versions()
    for entry in entries:
        if "/site-packages/" in entry.path or not isinstance(entry.source, Path):
            continue
        package = owners.get(str(entry.source)) or owners.get(str(entry.source.resolve()))
        if package is not None:
            version = versions.get(package, "")
            yield Component(
                name=package, version=version, bom_ref=f"deb:{package}",
                purl=PackageURL("deb", "debian", package, version),
            )  # fmt: skip
        elif _is_program(entry.source):
            digest = hashlib.sha256(entry.source.read_bytes()).hexdigest()
            yield Component(
                name=entry.path, type=ComponentType.FILE, bom_ref=f"file:{entry.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
            )  # fmt: skip


def _distributions(entries: list[TreeEntry]) -> Iterator[Component]:
    for entry in entries:
        if entry.path.endswith(_METADATA):
            source = entry.source
            text = source if isinstance(source, bytes) else b""
            if isinstance(source, Path):
                text = source.read_bytes()
            fields = HeaderParser().parsestr(text.decode("utf-8", "replace"))
            name, version = str(fields["Name"]), str(fields["Version"])
            yield Component(
                name=name, version=version, bom_ref=f"pypi:{name}",
                purl=PackageURL("pypi", None, name.lower().replace("_", "-"), version),
            )  # fmt: skip


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_ELF)) == _ELF


def _debian_owners() -> dict[str, str]:
    """Which package each file is of; empty where the machine isn't Debian's."""
    owners: dict[str, str] = {}
    for listing in sorted((_DPKG / "info").glob("*.list")):
        package = listing.stem.partition(":")[0]
        for line in listing.read_text(errors="replace").splitlines():
            owners[line] = package
            if line.startswith(("/bin/", "/lib", "/sbin/")):  # links into /usr since Debian 12
                owners[f"/usr{line}"] = package
    return owners


def _debian_versions() -> dict[str, str]:
    path = _DPKG / "status"
    versions: dict[str, str] = {}
    package = ""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        if line.startswith("Package: "):
            package = line[9:]
        elif line.startswith("Version: "):
            versions[package] = line[9:]
    return versions
