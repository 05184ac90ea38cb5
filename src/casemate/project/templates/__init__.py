"""Commented project files to start from, one for each kind of server."""

from __future__ import annotations

from importlib.resources import files

from casemate.project.manifest import Manifest

KINDS = ("onnx", "tensorflow-serving", "triton", "nginx", "command")


def project_file(kind: str, name: str) -> str:
    """A commented project file.

    Args:
        kind: one of `KINDS`.
        name: of the service.

    Raises:
        MalformedError: the name isn't one.
    """
    text = (files(__name__) / f"{kind}.toml").read_text().replace("{name}", name)
    Manifest.parse(text)
    return text
