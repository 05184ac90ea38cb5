"""A supplier plants code in a model, or has it point at files of the machine that seals it.

It controls every byte of the model's folder (threat model, P22). It wants its code to run in the
server that loads the model, or files of the owner's machine to come into the image.
"""

import gzip
import io
import json
import os
import pickle
import zipfile

import pytest
from tests.support.models import gguf, onnx_with_data

from casemate.errors import CasemateError
from casemate.image.model import read_model_folder


class Planted:
    """Leaves a mark when it is unpickled."""

    mark = ""

    def __reduce__(self):
        return (open, (self.mark, "w"))


@pytest.fixture
def supplier(tmp_path):
    Planted.mark = str(tmp_path / "it-ran")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/good.gguf").write_bytes(gguf())
    (tmp_path / "secret").write_text("a secret of the machine")
    yield tmp_path / "model"
    assert not (tmp_path / "it-ran").exists(), "nothing of a model runs"


def refused(folder, code, **options):
    with pytest.raises(CasemateError) as caught:
        read_model_folder(folder, **options)
    assert caught.value.code == code
    return caught.value


def archive(**members):
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return output.getvalue()


def npy(header):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


OBJECTS = npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")
FIELDS = npy("{'descr': [('a', '<f4'), ('b', [('c', '|O')])], 'fortran_order': False, 'shape': ()}")
LAMBDA = json.dumps({"config": {"layers": [{"class_name": "Lambda", "function": "…"}]}}).encode()
TORCH = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "torch's old form")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["model.bin", "weights", "config.json", "a.safetensors"])
def test_a_pickle_under_any_name(supplier, protocol, name):
    (supplier / name).write_bytes(pickle.dumps(Planted(), protocol))
    assert "pickle" in refused(supplier, "model.code").got


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.pkl", b"whatever"), ("a.pt", b""), ("a.joblib.gz", gzip.compress(b"")), ("A.PTH", b"x"),
        ("model.bin", TORCH[0]), ("model.bin", archive(archive__data_dot_pkl=b"x")),
        ("weights.zip", archive(a=pickle.dumps(5))), ("a.npy", OBJECTS), ("data", FIELDS),
        ("a.npz", archive(a_dot_npy=OBJECTS)), ("m.keras", archive(config_dot_json=LAMBDA)),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(3 << 20) + LAMBDA), ("1/keras_metadata.pb", LAMBDA),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + b" " * ((1 << 20) - 20) + b'"class_name":   "Lambda"'),
        ("m.keras", archive(config_dot_json=b" " * 100_000 + LAMBDA)),
    ],
)  # fmt: skip
def test_other_files_that_run_code(supplier, name, content):
    (supplier / name).parent.mkdir(exist_ok=True)
    (supplier / name).write_bytes(content)
    assert refused(supplier, "model.code").field == name
    model = read_model_folder(supplier, allow_pickle=True)
    assert any(name in warning for warning in model.warnings), "and who insists is told"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README", b"I am a text.\n(not a pickle)\n"), ("labels.txt", b"N.\n"), ("a.json", b"]."),
        ("a.npy", npy("{'descr': [('O', '<f4')], 'fortran_order': False, 'shape': ()}")),
        ("vocab", b"cat\ndog\n"), ("m.keras", archive(config_dot_json=b'{"class_name": "Dense"}')),
        ("a.zip", archive(notes=b"text")), ("floats.bin", b"\x80\x07\x00\x01"), ("empty", b""),
    ],
)  # fmt: skip
def test_what_runs_nothing_is_taken(supplier, name, content):
    (supplier / name).write_bytes(content)
    read_model_folder(supplier)


@pytest.mark.parametrize(
    "target", ["{}/secret", "../secret", "sub/../../secret", "/etc/passwd", ".."]
)
def test_a_link_out_of_the_folder(supplier, target):
    (supplier / "link").symlink_to(target.format(supplier.parent))
    refused(supplier, "model.outside", allow_pickle=True)


def test_a_link_within_it(supplier):
    (supplier / "sub").mkdir()
    (supplier / "sub/link").symlink_to("../good.gguf")
    read_model_folder(supplier)


@pytest.mark.parametrize(
    "location",
    ["../secret", "/etc/passwd", "a/../../secret", "", "absent", "..", "sub", "link",
     "sub/../good.gguf", "a\\..\\b"],
)  # fmt: skip
@pytest.mark.parametrize("within", [(5,), (1, 5, 6, 5)])
def test_a_graph_whose_data_is_elsewhere(supplier, location, within):
    (supplier / "sub").mkdir()
    (supplier / "link").symlink_to("good.gguf")
    (supplier / "m.onnx").write_bytes(onnx_with_data(within, location=location))
    refused(supplier, "model.outside", allow_pickle=True)


def test_a_second_name_of_a_file(supplier):
    (supplier / "notes").write_bytes(gzip.compress(b""))
    (supplier / "weights.joblib").hardlink_to(supplier / "notes")
    refused(supplier, "model.code")


def test_a_pipe_in_place_of_a_model(supplier):
    os.mkfifo(supplier / "a.gguf")
    refused(supplier, "image.tree")


def test_an_archive_that_would_unpack_for_ever(supplier, monkeypatch):
    monkeypatch.setattr("casemate.image.model.code._MAX_DESCRIPTION", 1 << 20)
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("config.json", bytes(8 << 20))
    (supplier / "m.keras").write_bytes(output.getvalue())
    refused(supplier, "model.malformed")
