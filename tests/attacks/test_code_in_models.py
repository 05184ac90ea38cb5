"""A supplier plants code in a model, or has it point at files of the machine that seals it.

It controls every byte of the model's folder (threat model, P22). It wants its code to run in the
server that loads the model, or files of the owner's machine to come into the image.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
import zlib

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


PICKLED = pickle.dumps(Planted(), 4)
OLD = pickle.dumps(Planted(), 0)
BARE = PICKLED[11:]  # neither PROTO nor FRAME, which no unpickler asks for


def packed(mode="w", **members):
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode=mode) as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("_dot_", "."))
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return output.getvalue()


def keras(description):
    return archive(config_dot_json=description)


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
    "content",
    [
        OLD + bytes(17 << 20), OLD[:-1] + b"\xff", OLD[:-1], BARE[:-1], b"\x80\x00" + OLD[:-1],
        b"\x80\x01" + OLD[:-1] + b"\xff", BARE + bytes(100),
        b"I0x10\n0" + OLD[:-1], b"S'\xff'\n0" + OLD[:-1], b"F1_0\n0" + OLD[:-1],
        b"X" + (17 << 20).to_bytes(4, "little") + bytes(17 << 20) + b"0" + OLD[:-1],
        b"V" + b"a" * (17 << 20) + b"\n0" + OLD[:-1], b"N0" * 1_000_001 + OLD[:-1],
        b"(S'id'\nios\nsystem\n", b"(cos\nsystem\nS'id'\no", b"cos\nsystem\n)\x81",
        b"cos\nsystem\n)}\x92", b"cos\nenviron\nNb", b"cos\nenviron\nNNs",
        b"cos\nenviron\n(NNu", b"cos\nenviron\nNa", b"cos\nenviron\n(Ne", b"c\nos\n.",
        b"cos\nsystem\np0\n0g0\n(S'id'\ntR", b"cos\nsystem\n2(S'id'\ntR",
    ],
)  # fmt: skip
def test_a_pickle_that_no_dumper_would_write(supplier, content):
    """An unpickler runs what comes first; what follows, and how it ends, comes too late."""
    (supplier / "weights.bin").write_bytes(content)
    if content.startswith(b"c\nos"):  # no module has that name
        read_model_folder(supplier)
    else:
        assert "pickle" in refused(supplier, "model.code").got


@pytest.mark.parametrize(
    ("name", "content"),
    [
        # np.dtype("object") is a type of objects, too.
        ("a.npy", npy("{'descr': 'object', 'fortran_order': False, 'shape': (1,)}")),
        ("a.npy", npy("{'descr': [('a', 'object_')], 'fortran_order': False, 'shape': (1,)}")),
        # A zip archive is found by its end: anything may come before it.
        ("m.keras", b"x" + keras(LAMBDA)), ("m.npz", b"PK\5\6" + bytes(18) + archive(a=OBJECTS)),
        ("weights", bytes(5000) + archive(archive__data_dot_pkl=b"x")),
        # JSON has many ways to write a letter, and may be UTF-16.
        ("m.keras", keras(LAMBDA.replace(b"Lambda", b"\\u004Camb\\u0064a"))),
        ("m.keras", keras(LAMBDA.replace(b"class_name", b"class\\u005fname"))),
        ("m.keras", keras(LAMBDA.decode().encode("utf-16"))),
        ("m.keras", keras(LAMBDA.decode().encode("utf-32-be"))),
        ("m.keras", keras(LAMBDA.replace(b"Lambda", b"__lambda__"))),
        ("m.keras", keras(LAMBDA.replace(b'": "L', b'":' + b" " * (3 << 20) + b'"L'))),
        ("m.h5", b"\x89HDF\r\n\x1a\n" + LAMBDA.replace(b"Lambda", b"\\u004cambda")),
        # HDF5 may begin at 512, 1024, 2048, …
        ("weights", bytes(512) + b"\x89HDF\r\n\x1a\n" + LAMBDA),
        ("weights", bytes(4096) + b"\x89HDF\r\n\x1a\n" + LAMBDA),
        # joblib.load looks at the content, torch.load reads tar archives.
        ("model.bin", gzip.compress(PICKLED)), ("model.bin", bz2.compress(PICKLED)),
        ("model.bin", zlib.compress(PICKLED)), ("model.bin", zlib.compress(PICKLED, 1)),
        ("model.bin", zlib.compress(OLD, 0)[:-5] + b"\xff" * 9),
        ("model.bin", lzma.compress(PICKLED)), ("model.bin", gzip.compress(OLD)[:-9]),
        ("model.bin", lzma.compress(PICKLED, format=lzma.FORMAT_ALONE)),
        ("model.bin", packed(storages=PICKLED)), ("model.bin", packed(pickle=OLD)),
        ("m.nemo", packed("w:gz", weights_dot_ckpt=b"x")),
        ("m.nemo", packed("w:xz", notes=b"x", weights=PICKLED)),
        ("a.zip", archive(inner=archive(archive__data_dot_pkl=b"x"))),
        # Of two kinds at once.
        ("m.keras", npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}") + keras(LAMBDA)),
        ("m.h5", packed(a=b"\x89HDF\r\n\x1a\n" + b"x" * 100) + LAMBDA),
        ("a.tar", packed(inner=archive(a=PICKLED))), ("a.mar", archive(handler=OLD)),
        ("a.zip", archive(inner=gzip.compress(PICKLED))), ("a.npy.gz", gzip.compress(OBJECTS)),
    ],
)  # fmt: skip
def test_code_in_other_clothes(supplier, name, content):
    (supplier / name).write_bytes(content)
    assert refused(supplier, "model.code").field == name


def test_archives_in_archives_without_end(supplier):
    content = b"text"
    for _ in range(20):
        content = archive(a=content)
    (supplier / "a.zip").write_bytes(content)
    refused(supplier, "model.malformed")


def test_an_archive_of_one_content_many_times(supplier, monkeypatch):
    monkeypatch.setattr("casemate.image.model.code._MAX_SEARCHED", 8 << 20)
    content = b"\x89HDF\r\n\x1a\n" + bytes(1 << 20)
    (supplier / "a.zip").write_bytes(archive(**{f"a{n}": content for n in range(20)}))
    refused(supplier, "model.malformed")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab", b"Iota\ncat\ndog\nRat\n"), ("LICENSE", b"(c) A\nAll rights\nor none\n"),
        ("notes", b"(in the end\nof it\n"), ("a.tar", packed(notes=b"text")),
        ("a.txt.gz", gzip.compress(b"text")), ("x", b"\x1f\x8bnothing"), ("x", b"BZh"),
        ("a.npy", npy("{'descr': '<M8[ns]', 'fortran_order': False, 'shape': ()}")),
        ("a.npy", npy("{'descr': [('a', '<f4', (2,)), ('b', '|S3')], 'shape': ()}")),
        ("x", b"x" * 99 + b"PK\5\6" + bytes(18)),
        ("x", b"x" * 99 + b"PK\5\6" + b"\1" * 16 + bytes(2)),
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
