"""The files of a SavedModel: where they lie, and the code that some of them carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from casemate.errors import MalformedError
from casemate.serving.saved_model.graph import MAX_SAVED_MODEL_BYTES, malformed
from casemate.serving.saved_model.wire import saved_model_pb2 as wire
from casemate.serving.source import SAVED_MODEL_FILE

KERAS_FILE: Final = "keras_metadata.pb"
LAMBDA: Final = "Lambda"
MAX_KERAS_BYTES: Final = 64 << 20
_FOLDERS: Final = ("variables", "assets")


def read_saved_model(folder: Path) -> bytes:
    """The content of ``saved_model.pb``, where every file of the model lies in its folder.

    Args:
        folder: the version's.

    Raises:
        MalformedError: ``serving.saved-model`` where a link leads out of it, or a file is too
            large or can't be read.
    """
    try:
        home = folder.resolve(strict=True)
        files = [folder / SAVED_MODEL_FILE]
        for name in _FOLDERS:
            files.extend((folder / name).rglob("*"))
        for file in files:
            if not file.resolve(strict=True).is_relative_to(home):
                raise _malformed(file, "a file in the version's folder", "a link out of it")
        return _read(folder / SAVED_MODEL_FILE, MAX_SAVED_MODEL_BYTES)
    except OSError as error:
        raise _malformed(folder, "readable files", error.strerror or "an error") from error


def check_keras_file(folder: Path, *, allowed: frozenset[str] = frozenset()) -> None:
    """Refuse a model whose Keras metadata carries Python code.

    Nothing here reads layers from it, but other programs do that get the same folder.

    Args:
        folder: the version's.
        allowed: names that the server's owner allows.

    Raises:
        MalformedError: ``serving.saved-model`` where it can't be read, ``serving.operation`` where
            it has a Lambda layer.
    """
    file = folder / KERAS_FILE
    if LAMBDA in allowed or not file.exists():
        return
    try:
        check_keras_metadata(_read(file, MAX_KERAS_BYTES))
    except OSError as error:
        raise _malformed(file, "a readable file", error.strerror or "an error") from error


def check_keras_metadata(content: bytes) -> None:
    """Refuse the content of a ``keras_metadata.pb`` with a Lambda layer.

    Raises:
        MalformedError: see ``check_keras_file``.
    """
    try:
        parsed = wire.KerasMetadata.FromString(content)
        layers = [json.loads(node.metadata) for node in parsed.nodes if node.metadata]
    except (DecodeError, ValueError, RecursionError) as error:
        raise _malformed(Path(KERAS_FILE), "Keras metadata", "other bytes") from error
    waiting: list[object] = list(layers)
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.get("class_name") == LAMBDA:
                raise MalformedError(
                    "serving.operation",
                    "the SavedModel is refused: a Lambda layer is Python code",
                    field=KERAS_FILE,
                    expected="layers without code",
                    got=LAMBDA,
                    remedy=f"If you trust the model with that: --allowed_operations={LAMBDA}",
                )
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _read(file: Path, limit: int) -> bytes:
    with file.open("rb") as opened:
        content = opened.read(limit + 1)
    if len(content) > limit:
        raise _malformed(file, f"at most {limit} bytes", "more")
    return content


def _malformed(file: Path, expected: str, got: str) -> MalformedError:
    return malformed(str(file)[-200:], expected, got)
