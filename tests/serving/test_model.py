"""Finding, loading and running a model."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.support.onnx_models import as_model, identity_model, put_model

from casemate.errors import MalformedError, UsageError
from casemate.serving.model import find_version, load_model


def test_the_highest_version_is_served(tmp_path):
    for version in (2, 10, 9):
        put_model(tmp_path, identity_model(), version=version)
    (tmp_path / "11").mkdir()  # not a model yet
    (tmp_path / "99x").mkdir()
    (tmp_path / "notes.txt").touch()

    assert find_version(tmp_path) == (10, tmp_path / "10" / "model.onnx")
    assert load_model("m", tmp_path, intra_op_threads=1).version == 10


def test_a_missing_folder_and_an_empty_one_say_what_is_expected(tmp_path):
    for base in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UsageError, match=r"1/model\.onnx"):
            load_model("m", base, intra_op_threads=1)


def test_a_file_that_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(MalformedError, match="can't load"):
        load_model("m", put_model(tmp_path, b"junk"), intra_op_threads=1)


def _with_external_weights(location):
    weights = onnx.TensorProto(name="c", data_type=TensorProto.FLOAT, dims=[4])
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=location)
    return as_model(
        [helper.make_node("Add", ["x", "c"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [weights],
    )


def test_weights_beside_the_model_are_read(tmp_path):
    put_model(tmp_path, _with_external_weights("weights.bin"))
    (tmp_path / "1" / "weights.bin").write_bytes(np.ones(4, "<f4").tobytes())

    model = load_model("m", tmp_path, intra_op_threads=1)

    assert model.run({"x": np.zeros(4, "<f4")}, ["y"])[0].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("how", ["upwards", "absolute", "through a link"])
def test_weights_outside_the_versions_folder_are_refused(tmp_path, how):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(4, "<f4").tobytes())
    location = {
        "upwards": "../../secret.bin", "absolute": str(secret), "through a link": "link.bin",
    }[how]  # fmt: skip
    base = put_model(tmp_path / "model", _with_external_weights(location))
    (base / "1" / "link.bin").symlink_to(secret)

    with pytest.raises(MalformedError, match="external data"):
        load_model("m", base, intra_op_threads=1)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [
        (TensorProto.BFLOAT16, "<u2"),
        (TensorProto.FLOAT16, "<f2"),
        (TensorProto.UINT64, "<u8"),
        (TensorProto.BOOL, "?"),
    ],
)
def test_less_common_types_go_through(tmp_path, element, dtype):
    model = load_model("m", put_model(tmp_path, identity_model(element)), intra_op_threads=1)
    given = np.array([1, 0, 1]).astype(dtype)

    (result,) = model.run({"x": given}, ["x_out"])

    assert result.dtype == given.dtype
    assert result.tolist() == given.tolist()


def test_strings_go_through(tmp_path):
    base = put_model(tmp_path, identity_model(TensorProto.STRING))
    model = load_model("m", base, intra_op_threads=1)

    (result,) = model.run({"x": np.array(["a", "é"], object)}, ["x_out"])

    assert result.tolist() == ["a", "é"]


def test_a_type_that_cannot_be_served_is_refused_at_the_start(tmp_path):
    base = put_model(tmp_path, identity_model(TensorProto.FLOAT8E5M2))
    with pytest.raises(MalformedError) as caught:
        load_model("m", base, intra_op_threads=1)
    assert caught.value.code == "serving.model"
