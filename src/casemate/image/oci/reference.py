"""Names of images in registries.

Source: OCI Distribution Specification 1.1, "Pulling manifests"; specs/sealed-image-artifact.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from casemate.errors import UsageError

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    r"(?P<host>(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]{2,45}\])(?::[0-9]{1,5})?)"
    rf"/(?P<name>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_MAX_NAME = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An image in a registry.

    Args:
        host: of the registry, perhaps with a port.
        name: of the repository.
        tag: which image; empty where the digest alone says.
        digest: ``sha256:…`` of the manifest; empty where the tag alone says.
    """

    host: str
    name: str
    tag: str
    digest: str = ""

    @property
    def wanted(self) -> str:
        """What the registry is asked for."""
        return self.digest or self.tag

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.host}/{self.name}{tag}{f'@{self.digest}' if self.digest else ''}"


def parse_reference(text: str) -> Reference:
    """Parse ``HOST[:PORT]/NAME[:TAG][@sha256:DIGEST]``.

    Raises:
        UsageError: ``registry.reference``.
    """
    found = _REFERENCE.fullmatch(text)
    host = found["host"] if found else ""
    named = host == "localhost" or any(mark in host for mark in ".:")
    if found is None or not named or len(found["name"]) > _MAX_NAME:
        raise UsageError(
            "registry.reference",
            f"{ascii(text)[:120]} names no image in a registry",
            field="reference",
            expected="HOST[:PORT]/NAME[:TAG][@sha256:…], the host with a dot, a port, or localhost",
            got=ascii(text)[:120],
        )
    digest, tag = found["digest"] or "", found["tag"] or ""
    return Reference(
        host=host, name=found["name"], tag=tag or ("" if digest else "latest"), digest=digest
    )
