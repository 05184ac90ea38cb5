"""A folder that holds a model, as a tree to be sealed.

Source: specs/sealed-model.md.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import posixpath
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from casemate.errors import MalformedError, UsageError
from casemate.image.content import content_pieces
from casemate.image.model import code, gguf, safetensors
from casemate.image.model.onnx_graph import ExternalData, external_data
from casemate.image.tree import EntryKind, TreeEntry, tree_from_directory
from casemate.image.workers import Meter, Progress

MODEL_RECORD = ".casemate-model.json"
"""The file of the sealed tree that holds the weights' digest."""
_FORMAT = "casemate-model/1"
_DOMAIN = b"casemate-weights/1\0"
_TFLITE = b"TFL3"
_ENDINGS = {
    ".onnx": "onnx", ".safetensors": "safetensors", ".gguf": "gguf", ".keras": "keras",
    ".npz": "numpy",
}  # fmt: skip
_OTHER = "other"
_VERSIONED = re.compile(r"(?:.*/)?[0-9]+/saved_model\.pb")
_VARIABLES = re.compile(r"(?P<folder>.*/)?variables/[^/]+")
REACHING = (
    "DebugIdentity", "DecodeProtoV2", "EagerPyFunc", "EncodeProto", "ImmutableConst",
    "MatchingFiles", "PyFunc", "PyFuncStateless", "ReadFile", "RpcCall", "WriteFile",
)  # fmt: skip
"""Operations of TensorFlow that are known to reach beyond the model, for a warning to its owner.

The model server has the other list, of those that only compute, and refuses all else (ADR 0018).
That one decides what may run, and can't be used here: the server stands alone, and whoever serves
this folder by another server would be warned of what is merely new. A warning that is missing here
lets nothing in there.
"""
_REACHING = re.compile(
    rb"\x12.(" + "|".join(REACHING).encode() + rb")[\x0a\x12\x1a\x22\x2a]", re.DOTALL
)
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """A file of the weights.

    Args:
        kind: what it is.
        size: in bytes.
        sha256: of its content, 32 bytes.
    """

    kind: str
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """A model as a tree.

    Args:
        entries: the tree, with the record of the weights.
        weights: each file of them by path.
        digest: of the weights, 32 bytes.
        warnings: what to look at.
    """

    entries: tuple[TreeEntry, ...]
    weights: Mapping[str, WeightFile]
    digest: bytes
    warnings: tuple[str, ...]


def read_model_folder(
    path: Path,
    *,
    allow_pickle: bool = False,
    mtime: int | None = 0,
    progress: Progress | None = None,
) -> ModelFolder:
    """Look at a model's files, and make a tree of them.

    Args:
        path: the folder.
        allow_pickle: take files that run code when they are loaded, with a warning.
        mtime: the time that every entry gets; None keeps each one's own.
        progress: called with (bytes of the weights hashed, bytes in all).

    Raises:
        UsageError: ``model.code``, ``model.outside``, ``model.unknown``, ``image.tree``.
        MalformedError: ``model.malformed``, ``encoding.*``.
    """
    found = [each for each in tree_from_directory(path, mtime=mtime) if each.path != MODEL_RECORD]
    by_path = {entry.path: entry for entry in found}
    for entry in found:
        if entry.kind is EntryKind.HARDLINK:  # a file of two names is one under each
            by_path[entry.path] = replace(by_path[entry.target], path=entry.path)
    look = _Look(by_path=by_path, allow_pickle=allow_pickle, warnings=[])
    kinds = look.kinds()
    wanted = sorted((each for each, kind in kinds.items() if kind != _OTHER), key=str.encode)
    meter = Meter(sum(by_path[each].size for each in wanted), progress)
    weights = {
        each: WeightFile(
            kind=kinds[each], size=by_path[each].size, sha256=_sha256(by_path[each], meter)
        )
        for each in wanted
    }
    if not weights:
        raise UsageError(
            "model.unknown",
            f"{path} holds no model that is known",
            field=str(path),
            expected="a SavedModel, ONNX, safetensors or GGUF",
            got=f"{len(found)} entries",
            remedy="A folder without model: in front is sealed as it is.",
        )
    digest = weights_digest(weights)
    record = encode_record(weights, digest)
    entry = TreeEntry(
        path=MODEL_RECORD, kind=EntryKind.FILE, mode=0o644, size=len(record), source=record
    )
    return ModelFolder(
        entries=(*found, entry), weights=weights, digest=digest, warnings=tuple(look.warnings)
    )


def weights_digest(weights: Mapping[str, WeightFile]) -> bytes:
    """The digest of the weights, 32 bytes.

    Source: specs/sealed-model.md, "Digest of the weights".
    """
    hashed = hashlib.sha256(_DOMAIN)
    for path in sorted(weights, key=str.encode):
        name, file = path.encode(), weights[path]
        hashed.update(len(name).to_bytes(4, "big") + name)
        hashed.update(file.size.to_bytes(8, "big") + file.sha256)
    return hashed.digest()


def encode_record(weights: Mapping[str, WeightFile], digest: bytes) -> bytes:
    """The record that goes into the sealed tree."""
    files = {
        path: {"kind": file.kind, "size": file.size, "sha256": file.sha256.hex()}
        for path, file in weights.items()
    }
    record = {"format": _FORMAT, "weights": digest.hex(), "files": files}
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


def _sha256(entry: TreeEntry, meter: Meter) -> bytes:
    hashed = hashlib.sha256()
    for piece in content_pieces(entry):
        hashed.update(piece)
        meter.add(len(piece))
    return hashed.digest()


@contextmanager
def _named_errors(path: str) -> Iterator[None]:
    """Within, a file is read by those who don't know its name; what they find wrong is about it."""
    try:
        yield
    except MalformedError as error:
        raise MalformedError(
            error.code,
            f"{path}: {error.message}",
            field=error.field,
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One look at every file."""

    by_path: Mapping[str, TreeEntry]
    allow_pickle: bool
    warnings: list[str]

    def kinds(self) -> dict[str, str]:
        """What each file is; an ONNX model's data counts as its model."""
        kinds: dict[str, str] = {}
        data: set[str] = set()
        for path, entry in self.by_path.items():
            if entry.kind is EntryKind.SYMLINK:
                self._check_link(entry)
            elif isinstance(entry.source, Path):
                with _named_errors(path):
                    with entry.source.open("rb") as file:
                        kinds[path] = self._kind(entry, file)
                    if kinds[path] == "onnx":
                        data |= self._onnx_data(entry, entry.source)
        return kinds | dict.fromkeys(data, "onnx")

    def _kind(self, entry: TreeEntry, file: IO[bytes]) -> str:
        why = code.why_code(entry.path, file)
        file.seek(0)
        if why:
            self._refuse(entry.path, why)
        head = file.read(16)
        file.seek(0)
        kind = self._named(entry.path, head)
        if kind == "safetensors":
            _check_safetensors(entry, file)
        elif kind == "gguf":
            gguf.check_header(_mapped(entry, file)[: gguf.MAX_HEADER], entry.size)
        elif kind == "savedmodel":
            self._look_at_graph(entry, file)
        if entry.path.endswith(".py"):
            self.warnings.append(f"{entry.path} is Python code, which a loader may import")
        is_pickle = why.removeprefix("compressed, ").startswith("a pickle")
        return "pickle" if is_pickle else kind

    def _named(self, path: str, head: bytes) -> str:
        name = posixpath.basename(path)
        variables = _VARIABLES.fullmatch(path)
        beside = f"{variables['folder'] or ''}saved_model.pb" if variables else ""
        if name == "saved_model.pb" or beside in self.by_path:
            return "savedmodel"
        if head.startswith(gguf.MAGIC):
            return "gguf"
        if head.startswith(code.NUMPY):
            return "numpy"
        if head.startswith(code.HDF5):
            return "hdf5"
        if head[4:8] == _TFLITE:
            return "tflite"
        return _ENDINGS.get(posixpath.splitext(name)[1].lower(), _OTHER)

    def _refuse(self, path: str, why: str) -> None:
        if self.allow_pickle:
            self.warnings.append(f"{path} runs code when it is loaded: it is {why}")
            return
        raise UsageError(
            "model.code",
            f"{path} runs code when it is loaded: it is {why}",
            field=path,
            expected="weights without code: safetensors, ONNX, GGUF, a SavedModel",
            got=why,
            remedy="Convert it. If you trust whoever made it, --allow-pickle insists.",
        )

    def _check_link(self, entry: TreeEntry) -> None:
        folder = posixpath.dirname(entry.path)
        target = posixpath.normpath(posixpath.join(folder, entry.target))
        if entry.target.startswith("/") or target == ".." or target.startswith("../"):
            raise _outside(entry.path, entry.target)

    def _look_at_graph(self, entry: TreeEntry, file: IO[bytes]) -> None:
        if posixpath.basename(entry.path) != "saved_model.pb":
            return
        if not _VERSIONED.fullmatch(entry.path):
            self.warnings.append(
                f"{entry.path} isn't in a folder named by a version, as TensorFlow Serving wants it"
            )
        found: set[str] = set()
        tail = b""
        while piece := file.read(_PIECE):
            found |= {match[1].decode() for match in _REACHING.finditer(tail + piece)}
            tail = piece[-64:]
        self.warnings.extend(
            f"{entry.path} has the operation {name}, which reaches beyond the model"
            for name in sorted(found)
        )

    def _onnx_data(self, entry: TreeEntry, source: Path) -> set[str]:
        with source.open("rb") as file:
            named = external_data(_mapped(entry, file))
        return {self._external(entry, each) for each in named}

    def _external(self, entry: TreeEntry, data: ExternalData) -> str:
        parts = data.location.split("/")
        if (
            not data.location
            or data.location.startswith("/")
            or ".." in parts
            or "\\" in data.location
        ):
            raise _outside(entry.path, data.location)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), data.location))
        found = self.by_path.get(path)
        if found is None or found.kind is not EntryKind.FILE:
            raise _outside(entry.path, data.location)
        if data.offset + (data.length or 0) > found.size:
            raise MalformedError(
                "model.malformed",
                f"it names data beyond the end of {path}",
                field=path,
                expected=f"{data.offset + (data.length or 0)} bytes",
                got=str(found.size),
                remedy="Fetch the file again, whole.",
            )
        return path


def _check_safetensors(entry: TreeEntry, file: IO[bytes]) -> None:
    size = safetensors.header_size(file.read(8), entry.size)
    safetensors.check_header(file.read(size), entry.size - 8 - size)


def _mapped(entry: TreeEntry, file: IO[bytes]) -> memoryview:
    """A file's content without reading it; unmapped when nobody looks at it any more."""
    if not entry.size:
        raise MalformedError(
            "model.malformed",
            f"{entry.path} is empty",
            field=entry.path,
            expected="a model",
            got="nothing",
        )
    return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _outside(path: str, target: str) -> UsageError:
    return UsageError(
        "model.outside",
        f"{path} names something that isn't in the model's folder",
        field=path,
        expected="a relative path of a file in the folder",
        got=ascii(target)[:200],
        remedy="Copy the file into the folder, or the folder with its links followed (cp -rL).",
    )


def recorded_digest(record: bytes) -> str:
    """The weights' digest that a sealed tree's record holds, in hex; empty where it is none.

    Does not check: that the weights are those. The image's id pins both.
    """
    try:
        value = json.loads(record)
    except (ValueError, RecursionError):
        return ""
    found = value.get("weights") if isinstance(value, dict) else None
    return found if isinstance(found, str) and re.fullmatch(r"[0-9a-f]{64}", found) else ""
