"""What the model's owner does before anything runs: write down, build, seal."""

from __future__ import annotations

from pathlib import Path

from casemate.project.build import Project
from casemate.project.files import write_public
from casemate.project.manifest import FILE_NAME
from casemate.project.templates import project_file

MODEL = "resnet"


def found_project(folder: Path, onnx: bytes, *, broker_port: int, serving_port: int) -> Project:
    """A project that serves a model, as ``casemate new`` would begin it.

    Args:
        folder: an empty one.
        onnx: the model.
        broker_port: the broker's TCP port.
        serving_port: the model server's.
    """
    write_public(folder / "model" / "1" / "model.onnx", onnx)
    text = (
        project_file("onnx", MODEL)
        .replace("port = 9000", f"port = {serving_port}")
        .replace("port = 50051", f"port = {broker_port}")
    )
    write_public(folder / FILE_NAME, text.encode())
    return Project.load(folder)
