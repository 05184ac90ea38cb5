"""Folders that hold a model become trees with a record of their weights."""

import hashlib
import json
import os
import re

import pytest
from tests.support.models import gguf, onnx_with_data, safetensors
from tests.support.trees import KEY

from casemate.errors import MalformedError, UsageError
from casemate.image.model import MODEL_RECORD, read_model_folder, recorded_digest
from casemate.image.model.folder import REACHING
from casemate.image.seal import seal
from casemate.project.sources import read_source
from casemate.serving.saved_model.operations import (
    ASSET_READERS,
    CHECKPOINT_READERS,
    COMPUTING,
    REMEMBERING,
)


@pytest.fixture
def folder(tmp_path):
    def put(**files):
        return put_all(
            {name.replace("__", "/").replace("_dot_", "."): c for name, c in files.items()}
        )

    def put_all(files):
        for name, content in files.items():
            path = tmp_path / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "model"

    put.all = put_all
    return put


SERVING = {
    "1/saved_model.pb": b"graph", "1/variables/variables.index": b"i",
    "1/variables/variables.data-00000-of-00001": b"d", "1/assets/words.txt": b"w", "README": b"r",
}  # fmt: skip


def kinds(model):
    return {path: file.kind for path, file in model.weights.items()}


def test_the_layout_of_tensorflow_serving(folder):
    model = read_model_folder(folder.all(SERVING))
    assert kinds(model) == {
        "1/saved_model.pb": "savedmodel", "1/variables/variables.index": "savedmodel",
        "1/variables/variables.data-00000-of-00001": "savedmodel",
    }  # fmt: skip
    assert model.warnings == ()
    assert {entry.path for entry in model.entries} >= {*SERVING, MODEL_RECORD}


def test_every_kind(folder):
    model = read_model_folder(
        folder.all(
            {
                "a.onnx": onnx_with_data(location="data/w", offset="1", length="3"),
                "data/w": b"1234",
                "b.safetensors": safetensors(), "c.gguf": gguf(), "d": gguf(), "e.npy": npy("<f4"),
                "f.h5": b"\x89HDF\r\n\x1a\n", "g.tflite": b"\0\0\0\0TFL3", "tokenizer.json": b"{}",
            }
        )
    )  # fmt: skip
    assert kinds(model) == {
        "a.onnx": "onnx", "data/w": "onnx", "b.safetensors": "safetensors", "c.gguf": "gguf",
        "d": "gguf", "e.npy": "numpy", "f.h5": "hdf5", "g.tflite": "tflite",
    }  # fmt: skip


def npy(descr):
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': (1,), }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(4)


def test_the_digest_of_the_weights_is_the_one_that_is_specified(folder):
    model = read_model_folder(folder.all({"b.gguf": gguf(), "a.safetensors": safetensors()}))
    expected = hashlib.sha256(b"casemate-weights/1\0")
    for path, content in (("a.safetensors", safetensors()), ("b.gguf", gguf())):
        expected.update(len(path).to_bytes(4, "big") + path.encode())
        expected.update(len(content).to_bytes(8, "big") + hashlib.sha256(content).digest())
    assert model.digest == expected.digest()
    (record,) = [entry.source for entry in model.entries if entry.path == MODEL_RECORD]
    assert recorded_digest(record) == model.digest.hex()
    assert json.loads(record)["files"]["b.gguf"]["size"] == len(gguf())


def test_only_the_weights_change_their_digest(folder):
    here = folder.all(SERVING)
    first = read_model_folder(here)
    (here / "README").write_bytes(b"other")
    os.utime(here / "1/saved_model.pb", (5, 5))
    (here / "1/saved_model.pb").chmod(0o600)
    assert read_model_folder(here).digest == first.digest
    (here / "1/variables/variables.index").write_bytes(b"j")
    changed = read_model_folder(here).digest
    assert changed != first.digest
    (here / "1").rename(here / "2")
    assert read_model_folder(here).digest not in (first.digest, changed)


def test_a_record_that_lies_in_the_folder_is_replaced(folder, tmp_path):
    here = folder.all({"a.gguf": gguf(), MODEL_RECORD: b'{"weights":"%b"}' % (b"0" * 64)})
    model = read_model_folder(here)
    assert model.digest == read_model_folder(folder.all({})).digest
    seal(model.entries, KEY, tmp_path / "sealed")
    assert [e.source for e in model.entries if e.path == MODEL_RECORD] != [b"0" * 64]


@pytest.mark.parametrize(
    "record", [b"", b"[]", b"{", b'{"weights":5}', b'{"weights":"ab"}', b"[" * 9999]
)
def test_a_record_that_is_none_tells_nothing(record):
    assert recorded_digest(record) == ""


def test_a_file_of_two_names_counts_under_each(folder):
    here = folder.all({"a.gguf": gguf()})
    (here / "b.gguf").hardlink_to(here / "a.gguf")
    (here / "c.gguf").symlink_to("a.gguf")
    assert set(kinds(read_model_folder(here))) == {"a.gguf", "b.gguf"}


def test_a_folder_without_weights(folder):
    with pytest.raises(UsageError) as caught:
        read_model_folder(folder.all({"README": b""}))
    assert caught.value.code == "model.unknown"


def test_what_is_odd_is_said(folder):
    graph = b"\x0a\x04name\x12\x08ReadFile\x1a\x01x"
    model = read_model_folder(folder.all({"saved_model.pb": graph, "load.py": b""}))
    told = " ".join(model.warnings)
    for word in ("version", "ReadFile", "Python"):
        assert word in told


@pytest.mark.parametrize("name", REACHING)
def test_an_operation_that_reaches_beyond_the_model_is_told_and_not_served(folder, name):
    graph = b"\x0a\x04name\x12" + bytes([len(name)]) + name.encode() + b"\x1a\x01x"
    model = read_model_folder(folder.all({"1/saved_model.pb": graph}))
    (warning,) = model.warnings
    assert f"the operation {name}, which reaches beyond the model" in warning
    assert name not in COMPUTING | REMEMBERING | {*CHECKPOINT_READERS, *ASSET_READERS}


@pytest.mark.parametrize(
    "files",
    [{"a.gguf": b""}, {"a.gguf": gguf()[:40]}, {"a.safetensors": b"x"}, {"a.onnx": b""},
     {"a.onnx": b"\xff"}, {"a.npy": b"\x93NUMPY\x01\x00\x05\x00{"}, {"a.keras": b"PK\x03\x04"},
     {"a.onnx": onnx_with_data(location="b", offset="3", length="2"), "b": b"1234"}],
)  # fmt: skip
def test_files_that_are_broken(folder, files):
    with pytest.raises(MalformedError, match=re.escape(next(iter(files)))):
        read_model_folder(folder.all(files))


def test_how_far_it_is_can_be_told(folder):
    told = []
    here = folder.all({"a.gguf": gguf(), "b.gguf": gguf(), "README": b"text"})
    read_model_folder(here, progress=lambda *done: told.append(done))
    assert told[-1] == (2 * len(gguf()), 2 * len(gguf()))


def test_a_model_is_a_source(folder):
    here = folder.all({"a.gguf": gguf()})
    tree = read_source(f"model:{here}")
    assert tree.weights == read_model_folder(here).digest.hex()
    assert tree.reasons("a.gguf") == {"a.gguf": "gguf weights"}
    with pytest.raises(UsageError):
        read_source(f"model:{here}/absent")
