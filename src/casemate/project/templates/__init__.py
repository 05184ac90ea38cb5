"""Commented project files to start from, one for each kind of server."""

from __future__ import annotations

from importlib.resources import files

from casemate.project.manifest import Manifest

KINDS = ("onnx", "tensorflow-serving", "triton", "nginx", "command")


_SECRET, _ATTESTED = 'identity = "secret"', 'identity = "attested"'


def project_file(kind: str, name: str, *, attested: bool = False) -> str:
    """A commented project file.

    Args:
        kind: one of `KINDS`.
        name: of the service.
        attested: whether the launcher makes the workload's TLS key, and clients verify it.

    Raises:
        MalformedError: the name isn't one.
    """
    text = (files(__name__) / f"{kind}.toml").read_text().replace("{name}", name)
    text = text.replace(_SECRET, _ATTESTED) if attested else text
    Manifest.parse(text)
    return text
