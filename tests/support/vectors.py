"""Test vectors on disk: the generators in ``tools/`` write them, ``tests/vectors/`` reads them.

A folder a case; ``case.json`` says what it is and what must come of it.
"""

from __future__ import annotations

import json
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any, TypeAlias

import cbor2

Vectors: TypeAlias = dict[str, dict[str, bytes]]
"""Folder name → file name → content."""

ROOT = Path(__file__).resolve().parents[2]


def folder(spec: str) -> Path:
    """Where the vectors of ``specs/SPEC.md`` lie."""
    return ROOT / "specs" / "vectors" / spec


def case_json(description: dict[str, object]) -> bytes:
    """The content of a ``case.json``."""
    return (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode()


def add(made: Vectors, name: str, description: dict[str, object], **files: bytes) -> None:
    """Add a case; ``source_toml=`` becomes ``source.toml``."""
    assert name not in made, name
    named = {key.replace("_", "."): content for key, content in files.items()}
    made[name] = {"case.json": case_json(description), **named}


def write(spec: str, made: Vectors) -> None:
    """Write every case, and remove what no case has."""
    for name, files in made.items():
        (folder(spec) / name).mkdir(parents=True, exist_ok=True)
        for file_name, content in files.items():
            (folder(spec) / name / file_name).write_bytes(content)
    for name, files in stored(spec).items():
        for file_name in files.keys() - made.get(name, {}).keys():
            (folder(spec) / name / file_name).unlink()
        if name not in made:
            (folder(spec) / name).rmdir()


def stored(spec: str) -> Vectors:
    """Every case as it lies on the disk."""
    return {
        case.name: {path.name: path.read_bytes() for path in case.iterdir()}
        for case in folder(spec).iterdir()
    }


def generated(spec: str) -> Vectors:
    """Every case as ``tools/make-SPEC-vectors`` makes it."""
    path = ROOT / "tools" / f"make-{spec}-vectors"
    loader = SourceFileLoader(path.name.replace("-", "_"), str(path))
    module_spec = spec_from_loader(loader.name, loader)
    assert module_spec is not None
    module = module_from_spec(module_spec)
    loader.exec_module(module)
    made: Vectors = module.vectors()
    return made


def names(spec: str, *prefixes: str) -> list[str]:
    """The names of the cases, of those alone that begin with one of ``prefixes``."""
    return sorted(path.name for path in folder(spec).iterdir() if path.name.startswith(prefixes))


def load(spec: str, name: str) -> dict[str, Any]:
    """What a case's ``case.json`` says."""
    case: dict[str, Any] = json.loads(text(spec, name, "case.json"))
    return case


def text(spec: str, name: str, file: str) -> str:
    """A file of a case."""
    return (folder(spec) / name / file).read_text(encoding="utf-8")


def cbor(value: object) -> bytes:
    """Deterministic CBOR, by the library alone."""
    return cbor2.dumps(value, canonical=True)


def readable(value: object) -> object:
    """A decoded value as JSON shows it: byte strings in hex."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: readable(item) for key, item in value.items()}
        case list() | tuple():
            return [readable(item) for item in value]
        case _:
            return value
